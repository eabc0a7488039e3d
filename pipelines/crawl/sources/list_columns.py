"""Which columns of a list hold the URL and the caption."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.crawl.batches import Source
from pipelines.crawl.sources.text_lines import ListError

# As in LAION, COYO, DataComp, Conceptual Captions and WIT, compared in lower case.
_URL_COLUMNS = ("url", "image_url", "img_url", "imageurl", "image", "src")
_CAPTION_COLUMNS = (
    "caption", "text", "alt", "alt_text", "title", "caption_raw",
    "caption_reference_description", "caption_alt_text_description",
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Names of the two columns, and of those that nothing is taken from."""

    url: str
    caption: str
    ignored: tuple[str, ...]


def find_columns(names: Sequence[str], source: Source, path: str) -> Columns:
    """The columns of URL and caption: those that the source names, else those of a usual name.

    Raises:
        ListError: if one is not there, naming the columns that are and the option to set, or if
            there are two of that name.
    """
    url = _column(names, source.url_column, _URL_COLUMNS, path, "url_column")
    caption = _column(names, source.caption_column, _CAPTION_COLUMNS, path, "caption_column")
    for name in (url, caption):
        if list(names).count(name) > 1:
            raise ListError(f"{path} has two columns {name}: rename one, or remove it")
    ignored = tuple(dict.fromkeys(name for name in names if name not in (url, caption)))
    return Columns(url, caption, ignored)


def _column(
    names: Sequence[str], wanted: str | None, usual: Sequence[str], path: str, option: str
) -> str:
    if wanted in names:
        return str(wanted)
    lowered = {name.lower(): name for name in names}
    found = next((lowered[name] for name in usual if name in lowered), None)
    if wanted is not None or found is None:
        said = ", ".join(names)[:300]
        raise ListError(f"{path} has the columns {said}: set {option} of its source to one of them")
    return found
