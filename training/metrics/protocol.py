"""The paper's comparison of drawn with real pictures, as curves over blur and candidates.

arXiv 2102.12092, section 3.1: one picture for each caption against as many reference pictures,
both sides blurred with a growing radius (Figure 9 a, b).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from training.metrics.features import Network
from training.metrics.fidelity import RADII, Fidelity, blur_curve, compare


def blur_figures(
    network: Network,
    drawn: Tensor,
    reference: Tensor,
    path: Path,
    radii: Sequence[float] = RADII,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, float | int | str]:
    """FID, KID and IS at every radius, as figures and as a plot.

    Args:
        network: gives the features.
        drawn: uint8 [N, 3, H, W], a picture for each caption.
        reference: uint8 [N, 3, H, W], the captions' own pictures.
        path: PNG file of the plot.
        radii: of the blur, in pixels.
        progress: told what begins.
    """
    curve = blur_curve(network, lambda: [drawn], lambda: [reference], radii, progress)
    found = {radius: compare(*sides) for radius, sides in curve.items()}
    _plot(found, path)
    figures: dict[str, float | int | str] = {
        "fidelity_network": network.name,
        "fidelity_pictures": len(drawn),
    }
    for radius, one in found.items():
        figures |= {
            f"fid_blur_{radius:g}": one.fid,
            f"kid_blur_{radius:g}": one.kid,
            f"inception_score_blur_{radius:g}": one.inception_score,
            f"inception_score_blur_{radius:g}_reference": one.reference_score,
        }
    return figures


def _plot(found: Mapping[float, Fidelity], path: Path) -> None:
    from matplotlib.figure import Figure

    first = next(iter(found.values()))
    radii = list(found)
    panels = {
        "FID": {"drawn": [one.fid for one in found.values()]},
        "KID": {"drawn": [one.kid for one in found.values()]},
        "inception score": {
            "drawn": [one.inception_score for one in found.values()],
            "reference": [one.reference_score for one in found.values()],
        },
    }
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for i, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, 3, i)
        for name, values in lines.items():
            axes.plot(radii, values, marker="o", label=name)
        axes.set(title=title, xlabel="blur radius, pixels")
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=8)
    figure.suptitle(f"{first.pictures} pictures a side, {first.network}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=90, format="png")
    temporary.replace(path)
