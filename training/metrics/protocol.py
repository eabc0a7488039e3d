"""The paper's comparison of drawn with real pictures (arXiv 2102.12092, section 3.1, Figure 9).

One picture for each caption, the best of N by the contrastive model, against as many reference
pictures: both sides blurred with a growing radius (Figure 9 a, b), the best of the first 1, 2, 4,
..., N (Figure 9 c), and each with all references and without those that the crawl has copies of.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from training.drawing.pictures import contact_sheet, to_images
from training.metrics.drawings import Drawings
from training.metrics.features import PUBLISHED, Features, Network
from training.metrics.fidelity import RADII, Fidelity, blur_curve, compare
from training.metrics.plots import Line, line_panels, sheet_scale
from training.metrics.reference_set import ReferenceSet
from training.model_report import Section, Value

_SHOWN = 12
_LABEL_WIDTH = 200
_LEAST_PICTURES = 2
_NOTES = (
    "FID is biased upwards for few pictures, and more so the fewer there are: compare it with "
    "figures of as many pictures and of the same network only. KID has no such bias. Published "
    f"figures are of 30,000 pictures and {PUBLISHED}."
)


@dataclass(frozen=True)
class Comparison:
    """Both sides of one set at every radius, and the best of fewer candidates.

    Attributes:
        drawn: by radius, the best of all candidates.
        reference: by radius.
        best_of: by number of candidates, without blur.
    """

    drawn: Mapping[float, Features]
    reference: Mapping[float, Features]
    best_of: Mapping[int, Features]

    def by_radius(self, kept: npt.NDArray[np.bool_]) -> dict[float, Fidelity]:
        """Figures of the kept captions at every radius."""
        return {
            radius: compare(side.take(kept), self.reference[radius].take(kept))
            for radius, side in self.drawn.items()
        }

    def by_candidates(self, kept: npt.NDArray[np.bool_]) -> dict[int, Fidelity]:
        """Figures of the kept captions by number of candidates; none if there is one only."""
        if len(self.best_of) == 1:
            return {}
        return {
            first: compare(side.take(kept), self.reference[0].take(kept))
            for first, side in self.best_of.items()
        }


def measure(
    references: ReferenceSet,
    drawings: Drawings,
    network: Network,
    copied: npt.NDArray[np.bool_] | None,
    output: Path,
) -> Section:
    """Compare drawings of a set's captions with its pictures; as figures, plots and a sheet.

    Args:
        references: the set.
        drawings: of its captions, drawn.
        network: gives the features.
        copied: which references the crawl has copies of, bool [captions]; None if unknown.
        output: directory of the plots.
    """
    print(f"{references.title}: features by {network.name}", flush=True)
    found = _features(references, drawings, network)
    masks = _masks(len(references.captions), copied)
    radii = {name: found.by_radius(kept) for name, kept in masks.items()}
    candidates = {name: found.by_candidates(kept) for name, kept in masks.items()}
    prefix = references.prefix
    figures: dict[str, Value] = {
        f"{prefix}fidelity_network": network.name,
        f"{prefix}fidelity_pictures": len(references.captions),
        f"{prefix}fidelity_distinct_references": int(references.places.max()) + 1,
        f"{prefix}fidelity_references": "pictures" if references.real else "reconstructions",
        f"{prefix}candidates": drawings.candidates,
    }
    if copied is not None:
        figures[f"{prefix}overlapping_pictures"] = int(copied.sum())
    if len(found.best_of) > 1:
        figures[f"{prefix}reranker"] = drawings.painter.embedder_id
    for name in masks:
        figures |= _figures(prefix + name, radii[name], candidates[name])
    plots = [output / f"{prefix}{name}.png" for name in ("blur", "reranking", "samples")]
    line_panels(_panels(radii), "blur radius, pixels", network.name, plots[0])
    if len(found.best_of) > 1:
        x = "candidates, of which the best is taken"
        line_panels(_panels(candidates), x, network.name, plots[1], doubling=True)
    else:
        del plots[1]
    _sheet(references, drawings, list(found.best_of), plots[-1])
    notes = _notes(references, drawings, copied)
    return Section(references.title, notes, figures, plots, network.name)


def _masks(captions: int, copied: npt.NDArray[np.bool_] | None) -> dict[str, npt.NDArray[np.bool_]]:
    """Beginning of the figures' names to the captions that they are of."""
    masks = {"": np.ones(captions, dtype=bool)}
    if copied is not None and copied.any() and (~copied).sum() >= _LEAST_PICTURES:
        masks["no_overlap_"] = ~copied
    return masks


def _features(references: ReferenceSet, drawings: Drawings, network: Network) -> Comparison:
    firsts = doublings(drawings.candidates)
    best = {first: drawings.best(first) for first in firsts}
    # A picture that is the best of several beginnings is looked at once.
    needed = np.unique(np.concatenate(list(best.values())))
    plain = blur_curve(network, drawings.pictures(needed), (0,))[0]
    best_of = {n: plain.take(np.searchsorted(needed, best[n])) for n in firsts}
    last = firsts[-1]
    drawn = {0.0: best_of[last]} | blur_curve(network, drawings.pictures(best[last]), RADII[1:])
    plain_and_blurred = blur_curve(network, references.open())
    reference = {r: side.take(references.places) for r, side in plain_and_blurred.items()}
    return Comparison(drawn, reference, best_of)


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and at the end `most` itself."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def _figures(
    prefix: str, radii: Mapping[float, Fidelity], candidates: Mapping[int, Fidelity]
) -> dict[str, Value]:
    figures: dict[str, Value] = {f"{prefix}pictures_compared": radii[0].pictures}
    for radius, one in radii.items():
        figures |= {
            f"{prefix}fid_blur_{radius:g}": one.fid,
            f"{prefix}kid_blur_{radius:g}": one.kid,
            f"{prefix}inception_score_blur_{radius:g}": one.inception_score,
            f"{prefix}inception_score_blur_{radius:g}_reference": one.reference_score,
        }
    for first, one in candidates.items():
        figures |= {
            f"{prefix}fid_best_of_{first}": one.fid,
            f"{prefix}kid_best_of_{first}": one.kid,
            f"{prefix}inception_score_best_of_{first}": one.inception_score,
        }
    return figures


def _panels(
    found: Mapping[str, Mapping[float, Fidelity] | Mapping[int, Fidelity]],
) -> dict[str, list[Line]]:
    panels: dict[str, list[Line]] = {"FID": [], "KID": [], "inception score": []}
    for name, by in found.items():
        x, values = list(by), list(by.values())
        # FID depends on the number, and the lines of a panel may differ in it.
        side = f"{values[0].pictures:,} a side"
        label = f"{'without overlapping references' if name else 'drawn'}, {side}"
        panels["FID"].append(Line(label, x, [one.fid for one in values]))
        panels["KID"].append(Line(label, x, [one.kid for one in values]))
        panels["inception score"].append(Line(label, x, [one.inception_score for one in values]))
    # Behind the others, whose colours are then the same in every panel.
    every = list(found[""].values())
    scores = [one.reference_score for one in every]
    label = f"reference, {every[0].pictures:,} pictures"
    panels["inception score"].append(Line(label, list(found[""]), scores))
    return panels


def _sheet(references: ReferenceSet, drawings: Drawings, firsts: Sequence[int], path: Path) -> None:
    """Some captions: the reference, then the best of 1, 2, 4, ... (Figure 6)."""
    captions = list(references.captions[:_SHOWN])
    places = references.places[: len(captions)]
    pictures = _first(references.open(), int(places.max()) + 1)
    truth = [pictures[place] for place in places]
    columns = [
        _first(drawings.pictures(drawings.best(first)[: len(captions)]), len(captions))
        for first in firsts
    ]
    rows = [(caption, list(row)) for caption, *row in zip(captions, truth, *columns, strict=True)]
    contact_sheet(
        rows, path,
        scale=sheet_scale(truth[0].shape[0]),
        columns=1 if len(firsts) > 4 else 2,
        label_width=_LABEL_WIDTH,
    )  # fmt: skip


def _first(batches: Iterator[Tensor], count: int) -> list[npt.NDArray[np.uint8]]:
    found: list[npt.NDArray[np.uint8]] = []
    for batch in batches:
        found += to_images(batch)
        if len(found) >= count:
            break
    return found[:count]


def _notes(
    references: ReferenceSet, drawings: Drawings, copied: npt.NDArray[np.bool_] | None
) -> list[str]:
    count = len(references.captions)
    notes = [f"{count:,} pictures a side, one for each caption. {_NOTES}"]
    if not references.real:
        notes.append(
            "The references are the dVAE's reconstructions of the captions' own codes, so these "
            "figures are of the transformer alone."
        )
    if copied is not None:
        notes.append(
            f"The crawl has copies of the references of {copied.sum():,} of {count:,} captions"
            + ("; without them: no_overlap." if copied.any() else ".")
        )
    best = "the best of the first " + ", ".join(map(str, doublings(drawings.candidates)))
    columns = best if drawings.candidates > 1 else "the drawn picture"
    notes.append(f"The sheet shows a caption, its reference picture, then {columns}.")
    return notes
