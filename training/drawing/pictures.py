"""Pictures and plots that programs leave for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from training.reporting import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 6
_TEXT_HEIGHT = 13


def to_images(tensor: Tensor) -> list[npt.NDArray[np.uint8]]:
    """uint8 [B, 3, H, W] as a list of [H, W, 3]."""
    return list(tensor.permute(0, 2, 3, 1).cpu().numpy())


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8]]]],
    path: Path,
    *,
    scale: int = 2,
    columns: int = 1,
    label_width: int = 0,
) -> None:
    """One line a row: a caption, then its pictures, enlarged by whole pixels.

    Args:
        rows: caption and pictures uint8 [H, W, 3] of one size.
        path: PNG file, replaced atomically.
        scale: enlargement.
        columns: rows side by side.
        label_width: pixels left of the pictures for the caption; 0 shows none.
    """
    side = rows[0][1][0].shape[0] * scale
    most = max(len(pictures) for _, pictures in rows)
    cell = label_width + most * (side + _GAP) + 2 * _GAP
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (cell * columns, lines * (side + _GAP) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, (caption, pictures) in enumerate(rows):
        left = i // lines * cell + _GAP
        top = i % lines * (side + _GAP) + _GAP
        for n, line in enumerate(_wrap(caption, font, label_width)[: side // _TEXT_HEIGHT]):
            draw.text((left, top + n * _TEXT_HEIGHT), line, fill="black", font=font)
        for j, picture in enumerate(pictures):
            large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (left + label_width + j * (side + _GAP), top))
    _save(sheet, path)


def curves(directory: Path, panels: Mapping[str, Sequence[str]]) -> None:
    """Plot metrics of `directory/metrics.jsonl` over updates into `curves.png`.

    Args:
        directory: a model's directory.
        panels: title (with unit) to the metrics drawn in it.
    """
    from matplotlib.figure import Figure

    lines = read_metrics(directory)
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for i, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            axes.plot([p[0] for p in points], [p[1] for p in points], label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8)
    _save_figure(figure, directory / "curves.png")


def bars(heights: Mapping[str, float], unit: str, path: Path) -> None:
    """Horizontal bars, each with its value, into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 0.4 * len(heights) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.barh(list(heights), list(heights.values()))
    axes.bar_label(drawn, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    _save_figure(figure, path)


def _save_figure(figure: "Figure", path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=90, format="png")
    temporary.replace(path)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    if width == 0:
        return []
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - _GAP:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    image.save(temporary, format="PNG", optimize=True)
    temporary.replace(path)
