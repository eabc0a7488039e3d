"""`python -m pipelines.publish.diff`: what changed between two versions."""

import json
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import typer

from pipelines import commands, parquet
from pipelines.publish.manifest import Manifest, PublishedFile, read_manifest

# A key is a uid and a crop number; so many are compared in memory at once.
_KEY_BYTES = 17
_ROWS_AT_ONCE = 20_000_000
_FACTS = (
    "contract_version", "grid", "image_size", "crops", "crop_recipe", "text_vocabulary",
    "text_max_length", "image_vocabulary", "tokenizer_sha256", "dvae_sha256",
)  # fmt: skip


class Rows(NamedTuple):
    """Rows by (uid, crop_id): only in the new version, only in the old one, in both."""

    added: int
    removed: int
    kept: int


def compare_rows(old: Manifest, new: Manifest, at_once: int = _ROWS_AT_ONCE) -> Rows:
    """Compare two versions row by row, in passes that hold about `at_once` keys each."""
    passes = -(-max(old.rows, new.rows, 1) // at_once)
    total = Rows(0, 0, 0)
    for number in range(passes):
        before, after = (_keys(version, number, passes) for version in (old, new))
        both = len(np.intersect1d(before, after, assume_unique=True))
        found = Rows(len(after) - both, len(before) - both, both)
        total = Rows(*(a + b for a, b in zip(total, found, strict=True)))
    return total


def _keys(version: Manifest, number: int, passes: int) -> npt.NDArray[np.void]:
    """Keys whose uid's first four bytes fall to this pass."""
    same = [np.empty(0, f"V{_KEY_BYTES}")]
    for file in version.metadata_files:
        same += _file_keys(version, file, number, passes)
    return np.concatenate(same)


def _file_keys(
    version: Manifest, file: PublishedFile, number: int, passes: int
) -> list[npt.NDArray[np.void]]:
    found = []
    for batch in parquet.read_batches(version.url(file), columns=["uid", "crop_id"], rows=65_536):
        uids = batch.column("uid")
        rows = np.frombuffer(uids.buffers()[1], np.uint8).reshape(-1, 16)
        rows = rows[uids.offset : uids.offset + len(uids)]
        crops = batch.column("crop_id").to_numpy()[:, None]
        keys = np.ascontiguousarray(np.hstack([rows, crops])).view(f"V{_KEY_BYTES}").ravel()
        prefix = rows[:, :4].copy().view(">u4").ravel()
        found.append(keys[prefix % passes == number])
    return found


def changed_settings(old: Manifest, new: Manifest) -> list[str]:
    """Thresholds and tools that differ, as far as the stages' files say which they were."""
    before, after = _settings(old), _settings(new)
    found = []
    for dataset, setting in sorted({*before, *after}):
        sides = [side.get((dataset, setting), {}) for side in (before, after)]
        both = sides[0].keys() & sides[1].keys()
        again = any(sides[0][batch] != sides[1][batch] for batch in both)
        # A batch more changes nothing if another one had its value.
        if again or set(sides[0].values()) != set(sides[1].values()):
            found.append(f"{dataset} {setting}: {_values(sides[0])} -> {_values(sides[1])}")
    return found


def _settings(version: Manifest) -> dict[tuple[str, str], dict[str, str]]:
    """Value by batch, as JSON, of each dataset's settings."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for stage in version.filters:
        for setting, value in stage.settings.items():
            values = dict.fromkeys(stage.batches, json.dumps(value, ensure_ascii=False))
            found.setdefault((stage.dataset, setting), {}).update(values)
    return found


def _values(by_batch: dict[str, str]) -> str:
    """The value, or each one with its batches where they differ."""
    values = sorted(set(by_batch.values()))
    if len(values) < 2:
        return values[0] if values else "not said"
    named = ([batch for batch in by_batch if by_batch[batch] == value] for value in values)
    return ", ".join(f"{v} ({_few(batches)})" for v, batches in zip(values, named, strict=True))


def changed_reasons(old: Manifest, new: Manifest) -> list[str]:
    """Rows dropped by stage and reason where the share of the stage's rows changed."""
    shares = [
        {
            (record.dataset, reason): (count, count / max(1, record.rows_in))
            for record in version.funnel()
            for reason, count in record.dropped.items()
        }
        for version in (old, new)
    ]
    lines = []
    for key in sorted({*shares[0], *shares[1]}):
        (before, share_before), (after, share_after) = (side.get(key, (0, 0.0)) for side in shares)
        if share_before != share_after:
            lines.append(
                f"{key[0]:24}{key[1]:28}{before:12,} ({share_before:.2%}) -> "
                f"{after:,} ({share_after:.2%})"
            )
    return lines


def changed_stages(old: Manifest, new: Manifest) -> list[str]:
    """Batches that came or went, and those that a stage made anew with other rules or inputs."""
    before, after = ({(r.batch, r.dataset): r.fingerprint for r in v.stages} for v in (old, new))
    lines = [f"batch {name} is new" for name in sorted(set(new.batches) - set(old.batches))]
    lines += [f"batch {name} is gone" for name in sorted(set(old.batches) - set(new.batches))]
    for dataset in dict.fromkeys(dataset for _, dataset in after):
        again = [
            batch
            for batch, name in after
            if name == dataset
            and before.get((batch, name), after[batch, name]) != after[batch, name]
        ]
        if again:
            lines.append(f"{dataset} was made again for {len(again):,} batches: {_few(again)}")
    return lines


def _few(names: list[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def _facts(old: Manifest, new: Manifest) -> list[str]:
    def pair(name: str) -> tuple[Any, Any]:
        return getattr(old, name), getattr(new, name)

    return [
        f"{name}: {pair(name)[0]} -> {pair(name)[1]}" for name in _FACTS if len(set(pair(name))) > 1
    ]


def lines(old: Manifest, new: Manifest) -> list[str]:
    """What to print."""
    if old.version == new.version:
        return [f"the same version, {old.version}"]
    rows = compare_rows(old, new)
    parts = {
        "tokenizers, models and sizes": _facts(old, new),
        "batches and stages": changed_stages(old, new),
        "settings of the filters": changed_settings(old, new),
        "rows dropped, and their share of what the stage read": changed_reasons(old, new),
    }
    shown = [
        f"{old.version} -> {new.version}",
        f"{rows.added:,} rows added, {rows.removed:,} removed, {rows.kept:,} in both",
    ]
    for title, found in parts.items():
        shown += [f"{title}:", *(f"  {line}" for line in found or ["no change"])]
    return shown


_VERSION = "Directory token_dataset/v=..., or token_dataset for the current one."


def main(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_VERSION, show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", help=_VERSION, show_default=False)],
) -> None:
    """Print what changed between two published versions: rows, models, batches and filters.

    \b
    python -m pipelines.publish.diff data/token_dataset/v=0123... data/token_dataset
    """
    for line in lines(read_manifest(old.rstrip("/")), read_manifest(new.rstrip("/"))):
        typer.echo(line)


if __name__ == "__main__":
    commands.run(main)
