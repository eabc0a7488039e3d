"""What a person looks at afterwards: pictures, tables and figures, gathered in one folder."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.demo.plan import BATCH
from assets.lib import exhibits
from assets.lib.exhibits import Captioned
from assets.lib.models import final
from assets.lib.settings import Settings
from pipelines import ledger, parquet, storage
from pipelines.layout import Layout, join
from pipelines.schemas import Stage

SHEET = "contact_sheet.png"
_FUNNEL = (
    "image_text_candidates",
    "fetched_pairs",
    "curated_pairs",
    "deduped_pairs",
    "token_grids",
)
_PAIRS_SHOWN = 64


@dataclass(frozen=True)
class Copies:
    """How the copies of reference images that were put on the web fared.

    Attributes:
        fetched: copies of which the crawl holds the bytes.
        caught: of those, dropped as reference copies.
        missed: URLs of those that are among the kept pairs.
        earlier: of those, dropped by another rule before they were compared.
        innocent: URLs dropped as reference copies that are none.
    """

    fetched: int
    caught: int
    missed: tuple[str, ...]
    earlier: int
    innocent: tuple[str, ...]


def collect(settings: Settings, web: Path, output: Path) -> list[str]:
    """Write the demonstration's result files into `output`.

    Args:
        settings: where the datasets and models are.
        web: the small web, with its `truth.json`.
        output: folder of the result files.

    Returns:
        Lines that sum up, for the terminal.
    """
    layout = settings.layout
    _copy(join(layout.samples, "samples.png"), output / SHEET)
    _copy(join(layout.model("dvae"), "reconstructions.png"), output / "reconstructions.png")
    _write_curves(layout, output / "curves.png")
    (output / "funnel.txt").write_text(funnel_text(layout) + "\n")
    truth = json.loads((web / "truth.json").read_text())
    copies = reference_copies(layout, truth)
    caught = exhibits.reference_copies(layout, BATCH, _PAIRS_SHOWN)
    pairs = [*_missed_pairs(settings, copies, truth), *caught][:_PAIRS_SHOWN]
    if pairs:
        (output / "reference_copies.png").write_bytes(exhibits.side_by_side(pairs))
    figures = {
        "dvae": storage.read_json(final(layout.model("dvae"), "summary.json")),
        "dalle": storage.read_json(final(layout.model("dalle"), "summary.json")),
        "evaluation": storage.read_json(join(layout.evaluation, "evaluation.json")),
        "reference_copies": copies.__dict__,
    }
    (output / "results.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return _summary(figures["dvae"], figures["evaluation"], copies)


def funnel_text(layout: Layout) -> str:
    """The funnel of the batch: a line a stage, then a line for each reason to drop."""
    lines = [f"{'stage':<38}{'in':>9}{'kept':>9}{'dropped':>9}"]
    for dataset in _FUNNEL:
        funnel = ledger.require_success(layout.dataset(dataset, BATCH)).funnel
        dropped = sum(funnel.dropped.values())
        lines.append(f"{dataset:<38}{funnel.rows_in:>9,}{funnel.kept:>9,}{dropped:>9,}")
        for reason, count in sorted(funnel.dropped.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"    {reason:<52}{count:>9,}")
    return "\n".join(lines)


def reference_copies(layout: Layout, truth: dict[str, Any]) -> Copies:
    """Compare what was dropped as a reference copy with what is one, by URL."""
    known = set(truth["reference_copies"])
    fetched = {
        r["url"]
        for r in _rows(layout.dataset("fetched_pairs", BATCH), ["url", "outcome"])
        if r["outcome"] == "ok"
    } & known
    rejects = _rows(layout.rejects(Stage.DEDUPE, BATCH), ["url", "reason"])
    flagged = {row["url"] for row in rejects if row["reason"] == "reference_copy"}
    kept = {row["url"] for row in _rows(layout.dataset("deduped_pairs", BATCH), ["url"])}
    caught, missed = fetched & flagged, fetched & kept - flagged
    earlier = len(fetched) - len(caught) - len(missed)
    innocent = tuple(sorted(flagged - known))
    return Copies(len(fetched), len(caught), tuple(sorted(missed)), earlier, innocent)


def _missed_pairs(
    settings: Settings, copies: Copies, truth: dict[str, Any]
) -> Iterator[tuple[Captioned, Captioned]]:
    """Each copy that was not caught, beside its original."""
    originals = {path.name: path for path in Path(settings.reference_images).rglob("*.png")}
    for row in _rows(settings.layout.dataset("deduped_pairs", BATCH), ["url", "image"]):
        if row["url"] in copies.missed:
            told = truth["reference_copies"][row["url"]]
            original = originals[told["reference"]].read_bytes()
            yield (
                Captioned(row["image"], f"MISSED: {told['attack']}"),
                Captioned(original, "reference"),
            )


def _summary(dvae: dict[str, Any], evaluation: dict[str, Any], copies: Copies) -> list[str]:
    return [
        *_likelihoods(evaluation),
        *_retrieval(evaluation),
        f"reconstructions: {dvae['psnr_db']:.2f} dB PSNR, "
        f"codebook perplexity {dvae['codebook_perplexity']:.0f}",
        f"reference copies: {copies.caught} of {copies.fetched} caught, {len(copies.missed)} "
        f"missed, {copies.earlier} dropped by earlier rules; {len(copies.innocent)} other "
        "pictures dropped as copies",
    ]


def _likelihoods(evaluation: dict[str, Any]) -> Iterator[str]:
    """A line for each split that has rows, the held-out combinations first."""
    yield "nats per image token with the right caption | with shuffled captions | gain"
    for split in ("held_out", "validation", "train"):
        right = evaluation.get(f"{split}_nats_image")
        shuffled = evaluation.get(f"{split}_nats_image_shuffled")
        if right is not None and shuffled is not None:
            yield f"  {split:<12}{right:8.3f}{shuffled:8.3f}{shuffled - right:+8.3f}"


def _retrieval(evaluation: dict[str, Any]) -> Iterator[str]:
    if "retrieval_pairs" in evaluation:
        shares = [
            evaluation[f"retrieval_{key}_at_1"]
            for key in ("image_to_text", "text_to_image", "chance")
        ]
        yield (
            "retrieval among {:,} unseen pairs: {:.0%} of the captions, {:.0%} of the pictures "
            "found; chance {:.0%}".format(evaluation["retrieval_pairs"], *shares)
        )


def _rows(directory: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for url in storage.list_files(directory, ".parquet"):
        for batch in parquet.read_batches(url, columns=columns):
            yield from batch.to_pylist()


def _copy(source: str, target: Path) -> None:
    target.write_bytes(storage.read_bytes(source))


def _write_curves(layout: Layout, target: Path) -> None:
    """The two models' loss curves, one above the other."""
    from PIL import Image

    urls = [join(layout.model(name), "curves.png") for name in ("dvae", "dalle")]
    plots = [Image.open(io.BytesIO(storage.read_bytes(url))).convert("RGB") for url in urls]
    size = (max(p.width for p in plots), sum(p.height for p in plots))
    sheet = Image.new("RGB", size, "white")
    top = 0
    for plot in plots:
        sheet.paste(plot, (0, top))
        top += plot.height
    sheet.save(target)
