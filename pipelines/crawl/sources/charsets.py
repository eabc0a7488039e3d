"""The text of a page, whatever its encoding says."""

import codecs
import functools
import re

_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.I
)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_:.-]{1,40})", re.I)
_META_BYTES = 2048
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Pages that say one of these mean the other (Encoding Standard, 4.2).
_MEANT = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
    "tis-620": "cp874", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs",
    "euc_kr": "cp949", "shift_jis": "cp932",
}  # fmt: skip
# Python has codecs that are no charsets, and some that fail or take for ever on bad input.
_CHARSETS = re.compile(
    r"utf-8|iso8859-\d+|cp125\d|cp866|cp874|cp932|cp949|koi8-[ru]|gb18030|big5hkscs|euc_jp"
    r"|iso2022_jp|mac-roman|mac-cyrillic|utf-16(-[lb]e)?"
)


def decode(body: bytes, content_type: str = "") -> str:
    """Text of a page: its byte order mark, the header's charset, its `<meta>`'s, else UTF-8.

    Bytes that are wrong in the encoding become U+FFFD; it never fails.
    """
    for mark, name in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, errors="replace")
    header = _HEADER_CHARSET.search(content_type) if content_type else None
    if header and (codec := _codec(header[1])):
        return body.decode(codec, errors="replace")
    meta = _META_CHARSET.search(body, 0, _META_BYTES)
    codec = _codec(meta[1].decode("ascii")) if meta else None
    # A page that could be read far enough to find the word is not UTF-16.
    if codec is None or codec.startswith("utf-16"):
        codec = "utf-8"
    return body.decode(codec, errors="replace")


@functools.lru_cache(maxsize=256)
def _codec(label: str) -> str | None:
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    name = _MEANT.get(name, name)
    return name if _CHARSETS.fullmatch(name) else None
