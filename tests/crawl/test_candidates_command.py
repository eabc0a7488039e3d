import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schemas

COMMAND = [sys.executable, "-m", "pipelines.crawl.candidates"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def candidates(directory: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(directory.glob("*.parquet")))


def write_list(path: Path, numbers: range) -> Path:
    path.write_text("".join(f"thing number {i}\thttp://h.example/{i}.jpg\n" for i in numbers))
    return path


def test_lists_of_several_kinds_make_one_dataset(tmp_path):
    captions_first = write_list(tmp_path / "cc3m.tsv", range(5))
    (tmp_path / "cc12m.tsv").write_text("http://h.example/7.jpg\ta seventh thing\n" * 2)
    (tmp_path / "laion.csv").write_text(
        "URL,TEXT,NSFW\nhttp://h.example/8.jpg,an eighth,no\nmailto:x,y,no\n"
    )
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "p.html").write_text('<html><img src="a.png" alt="on a page">')
    out = tmp_path / "out"
    done = run(
        captions_first, tmp_path / "cc12m.tsv", tmp_path / "laion.csv",
        f"https://h.example/={tmp_path / 'saved'}", "--output", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = candidates(out)
    assert schemas.violations(schemas.IMAGE_TEXT_CANDIDATES, table.schema) == []
    found = {(r["url"], r["caption_raw"], r["source"]) for r in table.to_pylist()}
    assert found == {
        *((f"http://h.example/{i}.jpg", f"thing number {i}", "cc3m") for i in range(5)),
        ("http://h.example/7.jpg", "a seventh thing", "cc12m"),
        ("http://h.example/8.jpg", "an eighth", "laion"),
        ("https://h.example/a.png", "on a page", "saved"),
    }
    rejects = pq.read_table(out / "_rejects").column("reason").to_pylist()
    assert sorted(rejects) == ["invalid_url", "repeat"]
    assert "NSFW" in done.stdout
    assert "invalid_url" in done.stdout
    assert (out / "_SUCCESS").exists()


def test_pairs_of_an_earlier_output_are_repeats(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run(write_list(tmp_path / "a.tsv", range(30)), "--output", first, "--source", "cc3m")
    newer = write_list(tmp_path / "b.tsv", range(20, 40))
    done = run(newer, "--output", second, "--source", "cc3m", "--earlier", first)
    assert done.returncode == 0, done.stderr
    assert sorted(candidates(second).column("url").to_pylist()) == sorted(
        f"http://h.example/{i}.jpg" for i in range(30, 40)
    )
    reasons = pq.read_table(second / "_rejects").column("reason").to_pylist()
    assert reasons == ["repeat_of_earlier_batch"] * 10
    # Another source may hold the same pairs.
    other = run(newer, "--output", tmp_path / "c", "--source", "other", "--earlier", first)
    assert other.returncode == 0
    assert candidates(tmp_path / "c").num_rows == 20


def test_a_file_that_is_no_list_is_one_row_among_others(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    write_list(folder / "a.tsv", range(5))
    (folder / "b.tsv").write_text("")
    (folder / "c.tsv").write_bytes(bytes(range(256)))
    done = run(*sorted(folder.iterdir()), "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert candidates(tmp_path / "out").num_rows == 5
    rejects = pq.read_table(tmp_path / "out" / "_rejects").to_pylist()
    assert [row["reason"] for row in rejects] == ["unreadable_file"] * 2
    assert any("b.tsv" in row["detail"] for row in rejects)
    # In a folder they are read as the others are.
    done = run(folder, "--output", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    assert candidates(tmp_path / "whole").num_rows == 5
    assert pq.read_table(tmp_path / "whole" / "_rejects").num_rows >= 1
    alone = run(folder / "b.tsv", "--output", tmp_path / "alone")
    assert (alone.returncode, "b.tsv" in alone.stderr) == (2, True)


def test_another_dataset_is_not_written_over(tmp_path):
    source = write_list(tmp_path / "a.tsv", range(5))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    pq.write_table(pa.table({"n": [1]}), theirs / "sales.parquet")
    rejects = tmp_path / "out" / "_rejects"
    assert run(source, "--output", tmp_path / "out").returncode == 0
    for place, held in ((theirs, "sales.parquet"), (rejects, "rejects")):
        before = {file: file.read_bytes() for file in place.iterdir()}
        done = run(source, "--output", place)
        assert done.returncode == 2, done.stdout
        assert f"holds {held}: choose another place" in done.stderr
        assert {f: f.read_bytes() for f in place.iterdir() if f.is_file()} == before


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    source = write_list(tmp_path / "a.tsv", range(5))
    command = " ".join([*COMMAND, str(source), "--output", str(tmp_path / "out"), "| true"])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "rror" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.tsv", "--output", "o"], "missing.tsv"),
        (["https://example.org/page", "--output", "o"], "--contact"),
        (["list.tsv"], "--output"),
        (["list.tsv", "--output", "o", "--earlier", "none"], "none is not finished"),
        (["list.tsv", "--output", "o", "--format", "parquet"], "list.tsv"),
        (["list.tsv", "--output", "o", "--allow-network", "nonsense"], "nonsense"),
    ],
)
def test_bad_usage_is_one_sentence_and_status_2(tmp_path, arguments, words):
    write_list(tmp_path / "list.tsv", range(3))
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o" / "_SUCCESS").exists()


def test_help_shows_examples():
    done = run("--help")
    assert done.returncode == 0
    assert "cc3m.tsv --output candidates" in done.stdout


@pytest.mark.slow
def test_a_long_list_is_cut_into_parts_killed_and_gone_on_with(tmp_path):
    source = write_list(tmp_path / "long.tsv", range(100_000))
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    process = subprocess.Popen(
        [*COMMAND, str(source), "--output", str(out)], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("part-*.parquet"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 10 <= len(list(out.glob("part-*.parquet"))) < 50
    for directory in (out, undisturbed):
        assert run(source, "--output", directory).returncode == 0
    columns = ["uid", "url", "caption_raw", "source"]
    assert candidates(out).select(columns) == candidates(undisturbed).select(columns)
    assert candidates(out).num_rows == 100_000
    assert len(set(candidates(out).column("uid").to_pylist())) == 100_000


def test_two_commands_do_not_write_one_output(tmp_path):
    source = write_list(tmp_path / "a.tsv", range(30_000))
    command = [*COMMAND, str(source), "--output", str(tmp_path / "out"), "--quiet"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "_lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.wait() == 0
    assert (second.returncode, "another process is writing" in second.stderr) == (2, True)
    assert candidates(tmp_path / "out").num_rows == 30_000
    assert not (tmp_path / "out" / "_lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_ends_it_at_once_and_leaves_no_process(tmp_path, processes):
    source = write_list(tmp_path / "a.tsv", range(100_000))
    out = tmp_path / "out"
    command = [*COMMAND, str(source), "--output", str(out), "--processes", str(processes)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "_found").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert "the same command goes on" in process.stderr.read()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert run(source, "--output", out).returncode == 0
    assert candidates(out).num_rows == 100_000
