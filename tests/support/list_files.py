"""Lists of URLs and captions in each format, and what is read of them."""

import bz2
import csv
import functools
import gzip
import io
import json
import lzma

import pyarrow as pa
import zstandard

from pipelines.crawl.batches import ListFormat, Source, SourceKind
from pipelines.crawl.found import to_batches
from pipelines.crawl.sources.url_lists import read_list

PAIRS = [("http://h/1.png", 'one, "two"'), ("http://h/2.png", "drei\tÄ"), ("http://h/3.png", "四")]
COMPRESSORS = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": functools.partial(lzma.compress, preset=0),
    "zstd": zstandard.ZstdCompressor().compress,
}
YFCC_PHOTO = (
    "6985418911\t4e2f7a26a1dfbf165a7e30bdabf7e72a\tguckxzs\t2012-02-16 09:56:37.0\t1331840483\t"
    "Canon+PowerShot+ELPH+310+HS\tCaf%C3%A9+%26+%3Cb%3ETwo%3C%2Fb%3E+cats\t"
    "My+vacation%3Cbr%3EMore+at+%3Ca+href%3D%22http%3A%2F%2Fx%2Fy%22+rel%3D%22nofollow%22%3Ex%2Fy"
    "%3C%2Fa%3E+%26amp%3B+on\tcanon,hs+310\t\t-81.804885\t24.550558\t12\t"
    "http://www.flickr.com/photos/39089491@N00/6985418911/\t"
    "http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg\t"
    "Attribution-NonCommercial-NoDerivs License\t"
    "http://creativecommons.org/licenses/by-nc-nd/2.0/\t7205\t8\tdf7747990d\t692d7e0a7f\tjpg\t0"
)
YFCC_PAIRS = [
    ("http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg", "Café & Two cats"),
    ("http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg",
     "My vacation More at x/y & on"),
]  # fmt: skip


def source(**options) -> Source:
    return Source("s", SourceKind.URL_LIST, ("unused",), **options)


def pairs(path, **options):
    return [(row.url, row.caption) for row in read_list(str(path), source(**options))]


def problems(path, **options):
    batches = to_batches(read_list(str(path), source(**options)), "s", None, 1000)
    return pa.Table.from_batches(list(batches)).column("problem").to_pylist()


def written(kind: str) -> tuple[bytes, list[tuple[str, str]], dict]:
    """A list's bytes, its pairs, and the options that read it."""
    text = io.StringIO()
    if kind == "csv":
        csv.writer(text).writerows([("url", "caption"), *PAIRS])
    elif kind == "tsv":
        text.write("".join(f"{c}\t{u}\n" for u, c in PAIRS if "\t" not in c))
        return text.getvalue().encode(), [PAIRS[0], PAIRS[2]], {"columns": ("caption", "url")}
    elif kind == "jsonl":
        text.write("".join(json.dumps({"url": u, "text": c}) + "\n" for u, c in PAIRS))
    elif kind == "yfcc100m":
        text.write(YFCC_PHOTO + "\n")
        return text.getvalue().encode(), YFCC_PAIRS, {"format": ListFormat.YFCC100M}
    return text.getvalue().encode(), PAIRS, {}
