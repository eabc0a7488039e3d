"""The gate: a finished model beside the promoted one, on the same rows.

Both are measured on rows that neither was trained on: the validation split of the candidate's
dataset, and its held-out captions. Lower nats per image token are better; the caption gain says
how many of them the right caption saves against another row's.
"""

import math
from dataclasses import dataclass

import pyarrow as pa
import torch

from pipelines.layout import Layout, join
from training import finished, remote
from training.dvae.codebook import COLLAPSE_ADVICE, perplexity
from training.errors import InputError
from training.finite import not_finite
from training.likelihood import right_and_shuffled
from training.models.loading import load_transformer
from training.promotion import log, versions
from training.promotion.comparison import Check, Comparison
from training.promotion.log import Entry, Model
from training.recipes import RECIPES, recipe
from training.splits import Split
from training.token_data import TokenData

_ROWS = 512
# Rows of one pass: logits of a large model take 32 MB a row.
_AT_ONCE = 16


@dataclass(frozen=True)
class Limits:
    """What is asked of a model.

    Attributes:
        margin: nats per image token by which it may be worse than the promoted one, and by which
            its caption gain may be less.
        least_perplexity: of the dataset's codes; None for the recipe's.
    """

    margin: float = 0.02
    least_perplexity: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise InputError(f"a margin is a number of nats, at least 0; got {self.margin}")


def compare(layout: Layout, limits: Limits) -> Comparison:
    """Measure the finished model of the data root, and the promoted one on the same rows.

    Raises:
        PromotionError: if there is no finished model, or its parts do not belong together.
    """
    model, promoted = versions.candidate(layout), log.current(layout)
    dataset = join(layout.token_dataset, f"v={model.dataset}")
    data = TokenData(dataset, recipe(model.recipe))
    problems: dict[str, list[str]] = {check: [] for check in Check}
    figures: dict[str, float] = {"margin": limits.margin}
    for name in (versions.DALLE, versions.DVAE):
        weights = finished.require(remote.local(layout.model(name))) / "model.safetensors"
        problems[Check.WEIGHTS_FINITE] += not_finite(weights)
    problems[Check.CODEBOOK_ALIVE] += _codebook(data, limits, figures)
    if not problems[Check.WEIGHTS_FINITE]:
        problems[Check.NO_REGRESSION] += _regression(layout, data, promoted, limits, figures)
    taken_back = log.rolled_back(log.history(layout)).get(model.version)
    if taken_back is not None:
        problems[Check.NOT_ROLLED_BACK].append(
            f"{taken_back.who} took it back at {taken_back.when}: {taken_back.why}"
        )
    number, version = (promoted.number, promoted.model.version) if promoted else (0, "")
    return Comparison(model, number, version, figures, problems)


def _codebook(data: TokenData, limits: Limits, figures: dict[str, float]) -> list[str]:
    rows = data.stream(Split.TRAIN).all_rows(_ROWS)
    spread, _ = perplexity(data.plain_batch(rows).codes, data.manifest.image_vocabulary)
    least = data.recipe.least_perplexity
    least = least if limits.least_perplexity is None else limits.least_perplexity
    figures |= {"codebook_perplexity": spread, "least_perplexity": least}
    if spread >= least:
        return []
    return [f"the codes' perplexity {spread:.2f} is below {least:.2f}: {COLLAPSE_ADVICE}"]


def _regression(
    layout: Layout,
    data: TokenData,
    promoted: Entry | None,
    limits: Limits,
    figures: dict[str, float],
) -> list[str]:
    table = _unseen(data)
    figures["rows"] = table.num_rows
    if len(set(table["caption"].to_pylist())) < 2:
        return ["fewer than two captions are kept out of training; publish more pairs"]
    nats, gain = _measure(layout.model(versions.DALLE), data, table)
    figures |= {"nats": nats, "caption_gain": gain}
    if not math.isfinite(nats):
        return [f"{nats} nats per image token"]
    if promoted is None:
        return []
    problem = _not_comparable(data, promoted.model)
    if problem:
        return [f"cannot be compared with the promoted v={promoted.model.version}: {problem}"]
    kept = join(versions.directory(layout, promoted.model.version), versions.DALLE)
    before, gain_before = _measure(kept, data, table)
    # Of an object store's versions, one more would be on this disk after each promotion.
    remote.forget(remote.local(kept) / finished.FINAL)
    figures |= {"promoted_nats": before, "promoted_caption_gain": gain_before}
    return _worse(figures)


def _worse(figures: dict[str, float]) -> list[str]:
    margin, found = figures["margin"], []
    nats, before = figures["nats"], figures["promoted_nats"]
    if not nats <= before + margin:
        found.append(
            f"{nats:.4f} nats per image token, the promoted one has {before:.4f}; "
            f"the margin is {margin:g}"
        )
    gain, before = figures["caption_gain"], figures["promoted_caption_gain"]
    if not gain >= before - margin:
        found.append(
            f"the right caption saves {gain:.4f} nats, with the promoted one {before:.4f}; "
            f"the margin is {margin:g}"
        )
    return found


def _unseen(data: TokenData) -> pa.Table:
    """Rows that are not trained on, of validation first."""
    tables = [data.stream(split).all_rows(_ROWS) for split in (Split.VALIDATION, Split.HELD_OUT)]
    return pa.concat_tables(tables).slice(0, _ROWS)


def _measure(directory: str, data: TokenData, table: pa.Table) -> tuple[float, float]:
    """Nats per image token, and how many the right caption saves."""
    model = load_transformer(remote.local(directory)).to(
        "cuda" if torch.cuda.is_available() else "cpu"
    )
    right, shuffled = right_and_shuffled(model, data, table, _AT_ONCE)
    return right.image, shuffled.image - right.image


def _not_comparable(data: TokenData, promoted: Model) -> str | None:
    """Why nats of the promoted model on these rows would say nothing, if so."""
    if promoted.dvae_sha256 != data.manifest.dvae_sha256:
        return "its codes are another dVAE's"
    if promoted.tokenizer_sha256 != data.manifest.tokenizer_sha256:
        return "its text is another tokenizer's"
    if promoted.recipe not in RECIPES:
        return f"its recipe {promoted.recipe!r} is no longer known"
    theirs = recipe(promoted.recipe)
    if (theirs.text.length, theirs.split) != (data.recipe.text.length, data.recipe.split):
        return "its recipe keeps other rows out of training, or has another text length"
    return None
