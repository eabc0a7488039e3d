"""Plots of figures over blur and candidates, and of shares; the size of pictures on sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT, _PANEL_WIDTH = 3.4, 3.9
_SMALL = 64


class Line(NamedTuple):
    """A line of a panel."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def line_panels(
    panels: Mapping[str, Sequence[Line]],
    x_label: str,
    caption: str,
    path: Path,
    *,
    doubling: bool = False,
) -> None:
    """Lines side by side into a PNG file, one panel for each title.

    Args:
        panels: title to lines.
        x_label: with its unit.
        caption: above all.
        path: replaced atomically.
        doubling: whether x is a number that doubles, which takes a logarithmic axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PANEL_WIDTH * len(panels), _HEIGHT), layout="constrained")
    for i, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), i)
        for line in lines:
            axes.plot(line.x, line.y, marker="o", label=line.label)
        if doubling:
            axes.set_xscale("log", base=2)
        ticks = list(lines[0].x)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(title=title, xlabel=x_label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(caption, fontsize=10)
    _save(figure, path)


def grouped_bars(
    groups: Mapping[str, Sequence[float]], names: Sequence[str], unit: str, path: Path
) -> None:
    """Bars of several groups side by side for each name, each with its value, into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, _HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(groups)
    for i, (label, values) in enumerate(groups.items()):
        places = [j + (i - (len(groups) - 1) / 2) * width for j in range(len(names))]
        drawn = axes.bar(places, values, width, label=label)
        axes.bar_label(drawn, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(unit)
    axes.margins(y=0.12)
    axes.legend(fontsize=8)
    _save(figure, path)


def sheet_scale(side: int) -> int:
    """How much pictures of so many pixels are enlarged on a sheet."""
    return 2 if side <= _SMALL else 1


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=90, format="png")
    temporary.replace(path)
