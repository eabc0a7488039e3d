import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.crawl.consent.opt_out import OptOut
from pipelines.crawl.fetch_ledger import (
    COLUMNS,
    PartLedger,
    make_private,
    read_counts,
    remove_ledger,
    work_directory,
)
from pipelines.crawl.fetch_rows import recorded_row, spread_domains
from pipelines.crawl.http.client import Response
from pipelines.crawl.http.outcomes import Outcome
from pipelines.locks import FileLock, InUseError

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def row(outcome: Outcome = Outcome.OK, **changes) -> dict:
    body = b"bytes" if outcome is Outcome.OK else None
    response = Response("u", outcome, status=200, mime="image/png", body=body, ended_at=NOW)
    return recorded_row(response, 0) | changes


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "part-00000.sqlite")


def test_what_is_recorded_is_there_for_the_next_process(path):
    ledger = PartLedger(path, "p", "t")
    ledger.record("http://h/1", row(), b"bytes")
    ledger.record("http://h/2", row(Outcome.TIMEOUT), None)
    ledger.close()
    again = PartLedger(path, "p", "t")
    assert again.rows() == {"http://h/1": row(), "http://h/2": row(Outcome.TIMEOUT)}
    assert list(again.images()) == [("http://h/1", b"bytes")]
    assert again.counts() == {"ok": 1, "timeout": 1}
    assert set(row()) == set(COLUMNS)
    again.close()


def _record_for_ever(path: str, ready) -> None:
    ledger = PartLedger(path, "p", "t")
    number = 0
    while True:
        ledger.record(f"http://h/{number}", row(), bytes(50_000))
        ledger.commit()
        number += 1
        ready.value = number


def test_a_killed_writer_loses_nothing_that_it_was_told_is_on_disk(path):
    context = multiprocessing.get_context("fork")
    told = context.Value("l", 0, lock=False)
    process = context.Process(target=_record_for_ever, args=(path, told))
    process.start()
    while told.value < 30:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    ledger = PartLedger(path, "p", "t")
    assert told.value <= ledger.counts()["ok"] <= told.value + 1
    assert {len(image) for _, image in ledger.images()} == {50_000}
    ledger.close()


def test_an_operator_reads_while_it_is_written(path):
    ledger = PartLedger(path, "p", "t")
    ledger.record("http://h/1", row(), b"bytes")
    ledger.commit()
    query = "import sqlite3, sys; db = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); "
    query += "print(db.execute('SELECT outcome, count(*) FROM urls GROUP BY 1').fetchall())"
    told = subprocess.run([sys.executable, "-c", query, path], capture_output=True, text=True)
    assert told.stdout.strip() == "[('ok', 1)]"
    ledger.note_kept(5, 4)
    ledger.record("http://h/2", row(Outcome.DNS), None)
    ledger.commit()
    assert read_counts(path) == (7, 5)
    ledger.close()


def test_another_policy_keeps_what_is_ok_and_the_number_of_requests(path):
    ledger = PartLedger(path, "p", "t")
    ledger.record("http://h/1", row(), b"bytes")
    ledger.record("http://h/2", row(Outcome.NOT_FOUND, attempts=3), None)
    ledger.close()
    ledger = PartLedger(path, "other", "t")
    assert ledger.rows()["http://h/1"]["outcome"] == "ok"
    assert ledger.rows()["http://h/2"]["outcome"] is None
    assert ledger.rows()["http://h/2"]["attempts"] == 3
    assert ledger.counts() == {"ok": 1}
    ledger.close()


def test_another_takedown_list_reopens_only_what_the_list_ended(path):
    ledger = PartLedger(path, "p", "t")
    ledger.record("http://h/1", row(Outcome.OPTED_OUT, opt_out_signal="takedown_list"), None)
    ledger.record("http://h/2", row(Outcome.OPTED_OUT, opt_out_signal="robots_txt"), None)
    ledger.close()
    ledger = PartLedger(path, "p", "other")
    assert [r["outcome"] for r in ledger.rows().values()] == [None, "opted_out"]
    ledger.close()


@pytest.mark.parametrize("where", [0, 20_000])
def test_a_damaged_file_is_set_aside(path, caplog, where):
    ledger = PartLedger(path, "p", "t")
    for number in range(200):
        ledger.record(f"http://h/{number}", row(), bytes(1000))
    ledger.close()
    # As after a checkpoint: the rows are in the main file.
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with open(path, "r+b") as file:
        file.seek(where)
        file.write(os.urandom(60_000))
    ledger = PartLedger(path, "p", "t")
    assert ledger.rows() == {}
    assert "is damaged" in caplog.text
    assert os.path.exists(f"{path}.damaged")
    ledger.close()


def test_what_cannot_be_opened_is_not_damaged(path):
    os.mkdir(path)
    with pytest.raises(sqlite3.OperationalError):
        PartLedger(path, "p", "t")
    assert not os.path.exists(f"{path}.damaged")


def test_a_ledger_stays_when_the_disk_fails(path):
    ledger = PartLedger(path, "p", "t")
    ledger.record("http://h/1", row(), b"bytes")
    ledger.close()
    program = (
        "import resource, sys; from pipelines.crawl.fetch_ledger import PartLedger\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "PartLedger(sys.argv[1], 'p', 't')"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert "sqlite3.OperationalError" in done.stderr
    assert not os.path.exists(f"{path}.damaged")
    ledger = PartLedger(path, "p", "t")
    assert list(ledger.rows()) == ["http://h/1"]
    ledger.close()


@pytest.mark.parametrize("name", ["out#1", "out?x", "50%41", "a b&c=d"])
def test_a_directory_may_have_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    path = str(tmp_path / name / "part-00000.sqlite")
    ledger = PartLedger(path, "p", "t")
    ledger.record("http://h/1", row(), b"bytes")
    ledger.commit()
    assert read_counts(path) == (1, 1)
    ledger.close()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_nothing_is_left_of_a_removed_ledger(path, tmp_path):
    ledger = PartLedger(path, "p", "t")
    ledger.record("http://h/1", row(), b"bytes")
    ledger.close()
    remove_ledger(path)
    assert list(tmp_path.iterdir()) == []
    assert read_counts(path) == (0, 0)


def test_a_lock_is_for_one_and_waits_for_the_other(tmp_path):
    path = str(tmp_path / "new" / "lock")
    lock = FileLock(path, "taken")
    with pytest.raises(InUseError, match="taken"):
        FileLock(path, "taken")
    program = (
        "import sys; from pipelines.locks import FileLock\n"
        "FileLock(sys.argv[1], 'taken', wait_s=20); print('got it')"
    )
    waiting = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    time.sleep(0.3)
    lock.release()
    assert waiting.communicate(timeout=20)[0] == b"got it\n"
    # The other ended without letting go.
    FileLock(path, "taken").release()
    assert not os.path.exists(path)


def test_a_remote_dataset_has_its_ledgers_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one, other = work_directory("memory://bucket/a"), work_directory("memory://bucket/b")
    assert one != other
    assert one.startswith(str(tmp_path))
    assert work_directory("memory://bucket/a") == one
    assert work_directory(str(tmp_path / "out")) == str(tmp_path / "out" / "_work")


def _link(directory, elsewhere):
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.symlink_to(elsewhere)


def _open_to_others(directory, _):
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir()
    directory.chmod(0o755)


def _file(directory, _):
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.touch()


@pytest.mark.parametrize("trap", [_link, _open_to_others, _file])
@pytest.mark.parametrize("level", [0, 1])
def test_a_directory_that_somebody_else_prepared_is_refused(tmp_path, monkeypatch, trap, level):
    temporary, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    temporary.mkdir()
    elsewhere.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    work = Path(work_directory("memory://bucket/a"))
    trap([work.parent, work][level], elsewhere)
    with pytest.raises(InUseError, match="0700"):
        make_private(str(work))
    assert list(elsewhere.iterdir()) == []


def test_directories_are_closed_to_others(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    work = Path(work_directory("memory://bucket/a"))
    make_private(str(work))
    make_private(str(work))
    assert [p.stat().st_mode & 0o777 for p in (work, work.parent)] == [0o700, 0o700]


def test_a_host_that_never_answers_is_counted_as_asked():
    signal_ = OptOut("robots_unreachable", "x")
    response = Response(
        "u", Outcome.ROBOTS_UNREACHABLE, opt_out=signal_, attempts=0, ended_at=NOW
    )  # fmt: skip
    assert recorded_row(response, 2)["attempts"] == 3
    ours = Response("u", Outcome.THROTTLED, attempts=0, ended_at=NOW)
    assert recorded_row(ours, 2)["attempts"] == 2


def test_a_domain_is_spread_over_the_whole_part():
    urls = [f"http://img{i % 3}.big.co.uk/{i}" for i in range(60)]
    urls += [f"http://host{i}.org/" for i in range(30)] + [f"http://two.org/{i}" for i in range(10)]
    order = spread_domains(sorted(urls))
    assert sorted(order) == sorted(urls)
    assert order == spread_domains(sorted(urls))
    for start in range(0, 100, 20):
        assert 8 <= sum("big" in url for url in order[start : start + 20]) <= 16
    thirds = [sum("two.org" in url for url in order[i : i + 50]) for i in (0, 50)]
    assert thirds == [5, 5]
