"""Pages nobody knows, parsed where they can do no harm.

A page of 60 KB can make any HTML parser that follows the standard build a tree of 5 GB (unclosed
<font> elements, rebuilt in every paragraph), and 100,000 nested <div> cost it 12 s. So a page with
more than a few elements is parsed in a process of its own, under limits of time and memory, which
lives until a page kills it.
"""

import contextlib
import ctypes
import functools
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from typing import IO

from selectolax.lexbor import SelectolaxError

from pipelines.crawl.sources.html import Image, Page, parse_page

PARSE_SECONDS = 5
_PARSE_BYTES = 512 * 1024 * 1024
# The worst that a page within these limits can do is some 0.2 s and 90 MB.
_HARMLESS_BYTES = 64 * 1024
_HARMLESS_TAGS = 1000
# A page's tree takes about 1 MB. glibc gives that back to the system after each page, and the next
# page faults it in again, which took 40 % of the time: let it keep a few trees.
_M_TRIM_THRESHOLD = -1  # malloc.h
_KEPT_BYTES = 16 * 1024 * 1024
# What a page gives: an address or text may be shared by all of its images.
_ANSWER_BYTES = 32 * 1024 * 1024
_HEAD = struct.Struct(">III")


class PageError(RuntimeError):
    """A page that could not be parsed within the limits."""


def parse_untrusted(body: bytes, page_url: str, content_type: str = "") -> Page:
    """`html.parse_page` under limits of time and memory.

    Raises:
        PageError: if the page needs more than the limits.
    """
    _keep_freed_memory()
    if len(body) <= _HARMLESS_BYTES and body.count(b"<") <= _HARMLESS_TAGS:
        return parse_page(body, page_url, content_type)
    return _parser().parse(body, page_url, content_type)


@functools.cache
def _keep_freed_memory() -> None:
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


class _Parser:
    """The process; one page at a time, for any thread."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def parse(self, body: bytes, page_url: str, content_type: str) -> Page:
        texts = [text.encode("utf-8", "replace") for text in (page_url, content_type)]
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            to, back = self._process.stdin, self._process.stdout
            assert to is not None
            assert back is not None
            try:
                to.write(_HEAD.pack(len(texts[0]), len(texts[1]), len(body)))
                for part in (*texts, body):
                    to.write(part)
                to.flush()
                answer = _read(back, int.from_bytes(_read(back, 4), "big"))
            except (EOFError, BrokenPipeError) as error:
                status = self._process.wait()
                to.close()
                back.close()
                self._process = None
                why = f"{PARSE_SECONDS} s" if status == -signal.SIGALRM else "memory allowed"
                raise PageError(f"parsing {len(body)} bytes takes more than the {why}") from error
        texts, images, metas = json.loads(answer)
        return Page(
            [Image(url, texts[at]) for url, at in images], [(name, text) for name, text in metas]
        )


_made = _Parser()


def _parser() -> _Parser:
    """This process's parser: one made before a fork belongs to the parent."""
    global _made
    if _made.owner != os.getpid():
        _made = _Parser()
    return _made


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _serve(pages: IO[bytes], answers: IO[bytes]) -> None:
    """Parse until the other side closes; a page over the limits ends the process."""
    _keep_freed_memory()
    _limit_memory()
    while head := pages.read(_HEAD.size):
        url, content_type, body = (_read(pages, size) for size in _HEAD.unpack(head))
        signal.alarm(PARSE_SECONDS)
        try:
            answer = _answer(parse_page(body, url.decode(), content_type.decode()))
        except (MemoryError, SelectolaxError):
            return
        signal.alarm(0)
        answers.write(len(answer).to_bytes(4, "big") + answer)
        answers.flush()


def _answer(page: Page) -> bytes:
    """The page as JSON, each caption once: thousands of images may share the one of a figure.

    Raises:
        MemoryError: if it would be more than `_ANSWER_BYTES`.
    """
    texts: dict[str, int] = {}
    images = [(url, texts.setdefault(caption, len(texts))) for url, caption in page.images]
    size = sum(len(url) for url, _ in images) + sum(map(len, texts))
    size += sum(len(name) + len(text) for name, text in page.metas)
    answer = b""
    if size <= _ANSWER_BYTES:
        answer = json.dumps((list(texts), images, page.metas)).encode()
    if not 0 < len(answer) <= 2 * _ANSWER_BYTES:
        raise MemoryError
    return answer


def _limit_memory() -> None:
    """Allow the parser so much more than the modules that are loaded by now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            used = int(stream.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return  # Not Linux: the time is limited all the same.
    resource.setrlimit(resource.RLIMIT_AS, (used + _PARSE_BYTES, used + _PARSE_BYTES))


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
