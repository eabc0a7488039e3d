import gzip
import lzma
import os
import subprocess
import sys
import textwrap
import time
import zlib
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from list_files import YFCC_PHOTO, pairs

from pipelines.crawl.batches import ListFormat
from pipelines.crawl.sources.url_lists import ListError


def test_memory_does_not_grow_with_the_list(tmp_path):
    with gzip.open(tmp_path / "a.csv", "wt", compresslevel=1) as file:
        file.write("url,caption\n")
        for block in range(100):
            row = f"http://host.example/images/{block}.jpg,a picture of block number {block}\n"
            file.write(row * 10_000)
    program = """
        import resource, sys
        from pipelines.crawl.batches import Source, SourceKind
        from pipelines.crawl.sources.url_lists import read_list
        rows = read_list(sys.argv[1], Source("s", SourceKind.URL_LIST, ("x",)))
        for _ in range(10_000):
            next(rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        count = 10_000 + sum(1 for _ in rows)
        print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), f"{tmp_path}/a.csv"]
    count, growth_kib = map(int, subprocess.check_output(command, text=True).split())
    assert count == 1_000_000
    assert growth_kib < 8 * 1024


def test_xz_that_asks_for_gigabytes_is_named(tmp_path):
    packed = bytearray(lzma.compress(b"url,caption\n", preset=0))
    end = 12 + packed[12] * 4  # xz file format, 3.1: the block's head, of which this is the CRC32
    at = packed.index(b"\x21\x01", 12, end) + 2
    packed[at] = 38
    packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
    (tmp_path / "a.csv.xz").write_bytes(packed)
    with pytest.raises(ListError, match="Memory usage limit"):
        pairs(tmp_path / "a.csv.xz")


def test_markup_of_descriptions_is_taken_out_without_a_tree(tmp_path):
    fonts = "<p>" + "".join(f"<font a{n}>" for n in range(4_000)) + "<p>x" * 4_000
    fields = YFCC_PHOTO.split("\t")
    fields[6] = quote_plus(fonts)
    fields[7] = quote_plus("1 < 2 <!-- no --><B\nx>b</B>&lt;i&gt;<br/>c %")
    (tmp_path / "a").write_text("\t".join(fields))
    start = time.monotonic()
    rows = pairs(tmp_path / "a", format=ListFormat.YFCC100M)
    assert time.monotonic() - start < 2
    assert [caption for _, caption in rows] == [" ".join("x" * 4_000), "1 < 2 b<i> c %"]


MEMORY = """
import resource, sys
from pipelines.crawl.batches import Source, SourceKind
from pipelines.crawl.found import to_batches
from pipelines.crawl.sources.url_lists import read_list
path = sys.argv[1]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = read_list(path, Source("s", SourceKind.URL_LIST, (path,)))
print([b.column("problem").value_counts().to_pylist() for b in to_batches(rows, "s", None, 131072)])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["jsonl.zst", "csv.zst", "dictionary.parquet", "plain.parquet"])
def test_small_files_of_long_captions_do_not_fill_the_memory(kind, tmp_path):
    path, long, rows = str(tmp_path / f"a.{kind}"), "xy" * 450_000, 700
    urls = [f"http://h.example/{n}.png" for n in range(rows)]
    if kind.endswith("parquet"):
        table = pa.table({"url": urls, "caption": [long] * rows})
        pq.write_table(table, path, compression="zstd", use_dictionary=kind.startswith("dict"))
    else:
        packer = zstandard.ZstdCompressor().compressobj()
        with open(path, "wb") as stream:
            short = ",".join(["xy" * 45_000] * 10)
            stream.write(
                packer.compress(b"url,caption" + b",c" * 9 + b"\n" if "csv" in kind else b"")
            )
            for url in urls:
                line = (
                    f"{url},{short}\n" if "csv" in kind else f'{{"url":"{url}","text":"{long}"}}\n'
                )
                stream.write(packer.compress(line.encode()))
            stream.write(packer.flush())
    assert os.path.getsize(path) < 200_000
    said = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rejected = {"caption_too_long": 700} if kind != "plain.parquet" else {"broken_row": 1}
    assert said[0] == str([[{"values": k, "counts": n} for k, n in rejected.items()]])
    assert int(said[1]) < 250
