"""What 250 million pairs cost, stage by stage: `python -m benchmarks.cost_model`.

Prints the inputs and the table of docs/scale.md. Rates of a core come from stage_rates.json
(`python -m benchmarks.scaling --record`); `--set NAME=VALUE` replaces any input by your own figure.
"""

import argparse
import json
import math
from dataclasses import dataclass

from benchmarks.scaling import RATES

_HOUR = 3600.0
_PEAK_H100 = 989e12  # dense bf16, NVIDIA's data sheet


@dataclass(frozen=True)
class Input:
    """A figure that the model starts from, and where it is from."""

    value: float
    unit: str
    source: str


_ASSUMED = "assumption"
INPUTS = {
    "pairs": Input(250e6, "pairs in the list", "arXiv 2102.12092"),
    "success": Input(0.75, "share fetched", f"{_ASSUMED}; docs/crawl_at_scale.md, What comes back"),
    "curated": Input(0.7, "share of the fetched that is kept", f"{_ASSUMED}; the rules decide"),
    "image_bytes": Input(100e3, "bytes of a fetched file", _ASSUMED),
    "stored_bytes": Input(25e3, "bytes of a stored picture", f"{_ASSUMED}: 288 px, quality 95"),
    "token_bytes": Input(2.56e3, "bytes of a row", "1,280 tokens of 2 bytes; less in Parquet"),
    "pages": Input(3000.0, "pages/s a core, WARC", "make bench"),
    "pairs_per_page": Input(3.0, "images with a text on a page", _ASSUMED),
    "fetched": Input(650.0, "files of 0.2 MB/s a core from loopback", "docs/performance.md"),
    "curate": Input(0.0, "pairs/core-s", "benchmarks.scaling"),
    "reference index": Input(0.0, "images/core-s", "benchmarks.scaling"),
    "dedupe": Input(0.0, "pairs/core-s", "benchmarks.scaling"),
    "tokenizer": Input(0.0, "captions/core-s, to learn merges", "benchmarks.scaling"),
    "references": Input(164e3, "reference images", "MS-COCO 2014 and 2017"),
    "batch": Input(100e3, "pairs of a batch", "docs/decisions.md"),
    "repeat_bytes": Input(3e6, "bytes read of an earlier batch", "benchmarks.dedupe_marks"),
    "captions": Input(8000.0, "captions/s a core, with dropout", "docs/encoding.md"),
    "published": Input(100e6, "bytes/s a core, shuffled", _ASSUMED),
    "encode_flop": Input(272.3e9, "FLOP to encode 256x256", "counted; docs/paper_map.md"),
    "encode_mfu": Input(0.4, "share of an H100's peak", _ASSUMED),
    "dvae_flop": Input(3 * (272.3e9 + 308.0e9), "FLOP of an image trained on", "counted"),
    "dvae_images": Input(3e6 * 512, "images: updates x batch", "arXiv 2102.12092, A.2"),
    "dalle_parameters": Input(12.09e9, "parameters outside embeddings", "docs/paper_map.md"),
    "dalle_tokens": Input(430e3 * 1024 * 1280, "tokens: updates x batch x length", "arXiv, B.2"),
    "contrastive_flop": Input(
        6 * (85e6 * 65 + 38e6 * 256), "FLOP of a pair trained on", "6 x parameters x positions"
    ),
    "contrastive_pairs": Input(390e3 * 32_768, "pairs: updates x batch", "recipe paper_12b"),
    "drawn": Input(30e3 * 512, "pictures: captions x candidates", "arXiv 2102.12092, 3.1, 2.6"),
    "draw_mfu": Input(0.4, "share of an H100's peak", f"{_ASSUMED}; gpu_marks prints yours"),
    "recompute": Input(4 / 3, "work with recomputed activations", "counted: 4 passes, not 3"),
    "train_mfu": Input(0.5, "share of an H100's peak", f"{_ASSUMED}; gpu_marks prints yours"),
    "core_hour": Input(0.05, "$ a core-hour", f"{_ASSUMED}: look up yours"),
    "gpu_hour": Input(3.0, "$ an H100-hour", f"{_ASSUMED}: look up yours"),
    "month": Input(23.0, "$ a TB-month", f"{_ASSUMED}: look up yours"),
}


@dataclass(frozen=True)
class Cost:
    """One stage: its work in hours of a core or of a GPU, and what it leaves in storage.

    Attributes:
        stage: name.
        core_hours: of processor time.
        gpu_hours: of an H100.
        terabytes: written and kept.
        sum: the arithmetic, in words.
    """

    stage: str
    core_hours: float
    gpu_hours: float
    terabytes: float
    sum: str


def costs(x: dict[str, float]) -> list[Cost]:
    """Every stage for the inputs `x`, by name as in `INPUTS`."""
    fetched = x["pairs"] * x["success"]
    kept = fetched * x["curated"]
    batches = math.ceil(x["pairs"] / x["batch"])
    peak = _PEAK_H100 * _HOUR
    encode = kept * x["encode_flop"] / (peak * x["encode_mfu"])
    dvae = x["dvae_images"] * x["dvae_flop"] / (peak * x["train_mfu"])
    flop = 6 * x["dalle_parameters"] * x["dalle_tokens"] * x["recompute"]
    read = batches * (batches - 1) / 2 * x["repeat_bytes"]
    towers = x["contrastive_pairs"] * x["contrastive_flop"] / (peak * x["train_mfu"])
    drawing = x["drawn"] * 1024 * 2 * x["dalle_parameters"] / (peak * x["draw_mfu"])

    def cores(work: float, rate: str) -> float:
        return work / x[rate] / _HOUR

    return [
        Cost("image_text_candidates", cores(x["pairs"] / x["pairs_per_page"], "pages"), 0,
             x["pairs"] * 100 / 1e12, "pairs / pairs_per_page / pages"),
        Cost("fetched_pairs", cores(x["pairs"], "fetched"), 0, fetched * x["image_bytes"] / 1e12,
             "pairs / fetched; the network decides, below"),
        Cost("curated_pairs", cores(fetched, "curate"), 0, kept * x["stored_bytes"] / 1e12,
             "pairs x success / curate"),
        Cost("coco_hash_index", cores(x["references"], "reference index"), 0, 0,
             "references / reference index, once"),
        Cost("deduped_pairs", cores(kept, "dedupe"), 0, kept * x["stored_bytes"] / 1e12,
             f"kept / dedupe; reads {read / 1e12:.1f} TB of earlier batches"),
        Cost("bpe_tokenizer", cores(kept, "tokenizer"), 0, 0, "kept / tokenizer"),
        Cost("token_grids", cores(kept, "captions"), encode, kept * x["token_bytes"] / 1e12,
             "kept x encode_flop / (peak x encode_mfu)"),
        Cost("token_dataset", kept * x["token_bytes"] / x["published"] / _HOUR, 0,
             kept * x["token_bytes"] / 1e12, "kept x token_bytes / published"),
        Cost("dvae", 0, dvae, 0, "dvae_images x dvae_flop / (peak x train_mfu)"),
        Cost("dalle", 0, flop / (peak * x["train_mfu"]), 0,
             "6 x parameters x tokens x recompute / (peak x train_mfu)"),
        Cost("contrastive", 0, towers, 0,
             "contrastive_pairs x contrastive_flop / (peak x train_mfu)"),
        Cost("evaluation", 0, drawing, 0,
             "drawn x 1,024 codes x 2 x parameters / (peak x draw_mfu); samples are few"),
    ]  # fmt: skip


def known(changes: dict[str, float]) -> dict[str, float]:
    """The inputs' values: stated, then measured, then those of the command line.

    Raises:
        ValueError: if a change names no input.
    """
    unknown = sorted(set(changes) - set(INPUTS))
    if unknown:
        raise ValueError(f"no input is named {unknown[0]!r}; they are {', '.join(INPUTS)}")
    measured: dict[str, float] = json.loads(RATES.read_text())
    return {name: given.value for name, given in INPUTS.items()} | measured | changes


def show(changes: dict[str, float]) -> None:
    """Print inputs and costs as Markdown tables.

    Raises:
        ValueError: as `known`.
    """
    x = known(changes)
    print("| input | value | of what | where it is from |\n|---|---:|---|---|")
    for name, given in INPUTS.items():
        print(f"| {name} | {x[name]:.6g} | {given.unit} | {given.source} |")
    print("\n| stage | core-hours | H100-hours | TB kept | $ | arithmetic |")
    print("|---|---:|---:|---:|---:|---|")
    total = [0.0, 0.0, 0.0, 0.0]
    for cost in costs(x):
        dollars = cost.core_hours * x["core_hour"] + cost.gpu_hours * x["gpu_hour"]
        figures = [cost.core_hours, cost.gpu_hours, cost.terabytes, dollars]
        total = [a + b for a, b in zip(total, figures, strict=True)]
        print(f"| `{cost.stage}` | {_cells(figures)} | {cost.sum} |")
    print(f"| all | {_cells(total)} | and ${total[2] * x['month']:,.0f} a month for storage |")


def _cells(figures: list[float]) -> str:
    return " | ".join(f"{figure:,.{0 if figure >= 10 or not figure else 2}f}" for figure in figures)


def main() -> None:
    """Print for the stated inputs, or for those of the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.cost_model", description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    words = [word.partition("=") for word in parser.parse_args().set]
    try:
        show({name: float(value) for name, _, value in words})
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
