"""Pages of a running Dagster UI, for tests and for the screenshots of the documentation.

`python tests/support/dagster_ui.py http://127.0.0.1:3000 docs/images` takes the latter, from the
deployment on which `make demo` ran and that `make up` serves.
"""

import io
import sys
from pathlib import Path

from browser import browser
from PIL import Image
from playwright.sync_api import Locator, Page

VIEW = {"width": 1280, "height": 800}
_PATIENCE_MS = 60_000
# The page of each name is taken with what its asset shows: a sheet, curves, a table.
_SCREENSHOTS = ("deduped_pairs", "dvae", "evaluation")
_COLOURS = 128
_PICTURE = "img[src^='data:image']"
# Axes and grid are nearly grey; lines and points are not.
_COLOURED = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) {
        const [low, high] = [Math.min, Math.max].map(f => f(...data.subarray(i, i + 3)));
        if (data[i + 3] > 200 && high - low > 100) return true;
    }
    return false;
}"""


def open_lineage(page: Page, url: str) -> list[str]:
    """Open the graph of all assets; the names of its groups, from top to bottom."""
    page.goto(f"{url}/asset-groups")
    groups = page.locator("[class*=MiddleTruncate_container]")
    groups.first.wait_for(timeout=_PATIENCE_MS)
    return [str(group.get_attribute("title")) for group in groups.all()]


def open_events(page: Page, url: str, asset: str) -> None:
    """Open the newest materialisation of an asset, with its metadata."""
    page.goto(f"{url}/assets/{asset}?view=events")
    page.get_by_text("dagster/uri").first.wait_for(timeout=_PATIENCE_MS)


def pictures(page: Page) -> list[tuple[int, int]]:
    """Open each picture of the metadata; width and height as the browser decoded them."""
    sizes = []
    links = page.get_by_text("[Show Markdown]")
    links.first.wait_for(timeout=_PATIENCE_MS)
    for link in links.all():
        close = _open(page, link)
        for picture in page.locator(_PICTURE).all():  # none where it is text alone
            picture.evaluate("image => image.decode()")
            sizes.append(picture.evaluate("image => [image.naturalWidth, image.naturalHeight]"))
        _shut(close)
    return [(width, height) for width, height in sizes]


def wait_for_plot(page: Page, url: str, asset: str, figure: str) -> None:
    """Open the plots of an asset's figures, and wait until that of `figure` has a mark."""
    page.goto(f"{url}/assets/{asset}")
    page.get_by_role("button", name="Plots").click(timeout=_PATIENCE_MS)
    title = page.get_by_text(figure, exact=True)
    plot = title.locator("xpath=following::canvas[1]").element_handle(timeout=_PATIENCE_MS)
    page.wait_for_function(_COLOURED, arg=plot, timeout=_PATIENCE_MS)


def _open(page: Page, link: Locator) -> Locator:
    """Open what a link of the metadata shows; the button that closes it."""
    link.click()
    close = page.get_by_role("button", name="Close")
    close.wait_for(timeout=_PATIENCE_MS)
    return close


def _shut(close: Locator) -> None:
    """Wait until it is gone: the next one's button has the same name."""
    close.click()
    close.wait_for(state="detached", timeout=_PATIENCE_MS)


def save(page: Page, path: Path) -> None:
    """A screenshot in few colours: text and lines stay sharp, and the file small."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(_COLOURS).save(path, optimize=True)


def main(url: str, directory: Path) -> None:
    """Write `ui_*.png`."""
    with browser() as opened:
        page = opened.new_context(viewport=VIEW).new_page()
        open_lineage(page, url)
        page.wait_for_timeout(3000)
        save(page, directory / "ui_lineage.png")
        for asset in _SCREENSHOTS:
            open_events(page, url, asset)
            for link in page.get_by_text("[Show Markdown]").all():
                close = _open(page, link)
                if page.locator(_PICTURE).count():
                    break
                _shut(close)
            page.wait_for_timeout(1000)
            save(page, directory / f"ui_{asset}.png")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
