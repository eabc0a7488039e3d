import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crawl.config import DomainLimit, HttpConfig
from pipelines.crawl.http import politeness
from pipelines.crawl.http.outcomes import FetchError, Outcome
from pipelines.crawl.http.politeness import (
    Politeness,
    registrable_domain,
    retry_after_s,
)

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


def polite(connections: int = 4, delay_s: float = 0.0, **others) -> Politeness:
    return Politeness(
        HttpConfig("https://h", domain_connections=connections, domain_delay_s=delay_s, **others)
    )


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("img.cdn.example.co.uk", "example.co.uk"),
        ("Example.COM.", "example.com"),
        ("someone.github.io", "github.io"),
        ("xn--bcher-kva.example.ch", "example.ch"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("localhost", "localhost"),
        ("co.uk", "co.uk"),
        ("", ""),
    ],
)
def test_registrable_domains(host, domain):
    assert registrable_domain(host) == domain


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("3601", 3600),
        ("9" * 5000, 3600),
        ("Wed, 01 May 2024 12:00:30 GMT", 30),
        ("Wednesday, 01-May-24 12:00:30 GMT", 30),
        ("Wed, 01 May 2024 11:00:00 GMT", 0),
        ("Thu, 01 May 2025 11:00:00 GMT", 3600),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_retry_after(text, seconds):
    assert retry_after_s(text, NOW) == seconds


@given(st.text())
def test_any_text_may_be_a_retry_after(text):
    seconds = retry_after_s(text, NOW)
    assert seconds is None or 0 <= seconds <= 3600


def last_start(limit: Politeness, host: str, count: int) -> float:
    """Seconds until the last of `count` threads that come at once has had its slot."""
    began = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda _: hold_slot(limit, host), range(count)))
    return time.monotonic() - began


def hold_slot(limit: Politeness, host: str) -> float:
    with limit.slot(host) as waited:
        return waited


def test_starts_are_a_delay_apart_over_all_hosts_of_a_domain():
    limit = polite(delay_s=0.05)
    began = time.monotonic()
    for host in ("a.example.com", "b.example.com", "example.com"):
        hold_slot(limit, host)
    assert time.monotonic() - began >= 0.1
    assert 0.3 <= last_start(limit, "example.com", 6) < 3


def test_a_free_connection_is_used_as_soon_as_the_delay_is_over():
    limit = polite(delay_s=0.2)
    inside = threading.Semaphore(0)
    go_on = threading.Event()

    def once() -> None:
        with limit.slot("h"):
            inside.release()
            go_on.wait(20)

    threads = [threading.Thread(target=once) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert all(inside.acquire(timeout=5) for _ in threads)
    go_on.set()


def test_the_seconds_waited_are_given():
    limit = polite(delay_s=0.1)
    with limit.slot("h") as first, limit.slot("h") as second:
        assert first < 0.09 <= second < 2


def test_other_domains_do_not_wait():
    limit = polite(connections=1, delay_s=5.0)
    began = time.monotonic()
    for i in range(20):
        with limit.slot(f"h{i}.example"):
            pass
    assert time.monotonic() - began < 4


def test_at_most_so_many_connections():
    limit = polite(connections=3)
    lock = threading.Lock()
    running = most = 0

    def once(_: int) -> None:
        nonlocal running, most
        with limit.slot("h"):
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(once, range(24)))
    assert most == 3


def test_a_domain_may_have_its_own_limits():
    limit = polite(1, 9.0, domain_limits=(DomainLimit("img.example.com", 2, 0.0),))
    with limit.slot("a.example.com"), limit.slot("b.example.com") as waited:
        assert waited < 0.5


@pytest.mark.parametrize(("connections", "own"), [(4, 2), (1, 1)])
def test_processes_share_the_limits(connections, own):
    limit = polite(connections, 0.02, processes=2, max_wait_s=0.15)
    assert last_start(limit, "h", 2) >= 0.039
    with pytest.raises(FetchError, match="busy"):
        hold(limit, own + 1)


def hold(limit: Politeness, count: int) -> None:
    if count:
        with limit.slot("h"):
            hold(limit, count - 1)


def test_first_come_first_served():
    limit = polite(connections=1)
    order: list[int] = []
    threads = []

    def once(i: int) -> None:
        with limit.slot("h"):
            order.append(i)

    with limit.slot("h"):
        for i in range(8):
            threads.append(threading.Thread(target=once, args=(i,)))
            threads[-1].start()
            while len(limit._domains["h"].waiting) <= i:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == list(range(8))


def test_a_turn_too_far_away_is_refused_at_once():
    limit = polite(delay_s=40, max_wait_s=60)
    hold_slot(limit, "h")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(hold_slot, limit, "h")
        while not limit._domains["h"].waiting:
            time.sleep(0.001)
        began = time.monotonic()
        with pytest.raises(FetchError, match=r"turn is in (79|80) s") as error:
            hold_slot(limit, "h")
        assert time.monotonic() - began < 2
        limit.answered("h", 503, "3600")
        assert isinstance(second.exception(5), FetchError)
    assert error.value.outcome is Outcome.THROTTLED


def test_without_patience_a_free_slot_is_still_given():
    limit = polite(connections=1, max_wait_s=0)
    with limit.slot("h"), pytest.raises(FetchError, match="busy"), limit.slot("h"):
        pass
    with limit.slot("h") as waited:
        assert waited < 2


def test_a_slot_is_free_again_on_every_path():
    limit = polite(connections=1, max_wait_s=0.01)
    for error in (ValueError, KeyboardInterrupt, FetchError):
        with pytest.raises(error), limit.slot("h"):
            raise error(Outcome.TIMEOUT, "x") if error is FetchError else error
        with pytest.raises(FetchError, match="busy"):
            hold(limit, 2)
    domain = limit._domains["h"]
    assert (domain.active, len(domain.waiting)) == (0, 0)


@pytest.mark.parametrize("status", [429, 503])
def test_a_domain_that_asks_for_it_is_left_alone(status):
    limit = polite(max_wait_s=60)
    limit.answered("a.example.com", status, "600")
    began = time.monotonic()
    with pytest.raises(FetchError, match=r"^example\.com asks to be left alone for 600 s$"):
        hold_slot(limit, "b.example.com")
    assert time.monotonic() - began < 2
    hold_slot(limit, "example.org")


def test_a_retry_after_may_be_a_date():
    limit = polite()
    moment = datetime.fromtimestamp(time.time() + 1000, UTC)
    limit.answered("h", 503, format_datetime(moment, usegmt=True))
    with pytest.raises(FetchError, match=r"alone for (999|1000) s"):
        hold_slot(limit, "h")


def test_a_pause_is_waited_out_where_it_is_short():
    limit = polite()
    limit.answered("h", 429, "0")  # a second at least: "at once" is no answer to too many
    assert 0.9 <= hold_slot(limit, "h") < 4


def test_who_waits_already_is_refused_when_a_long_pause_begins():
    limit = polite(delay_s=30, max_wait_s=60)
    hold_slot(limit, "h")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(hold_slot, limit, "h") for _ in range(2)]
        while len(limit._domains["h"].waiting) < 2:
            time.sleep(0.001)
        limit.answered("h", 429, "3600")
        for each in waiting:
            with pytest.raises(FetchError, match="left alone for 3600 s"):
                each.result(10)


def pauses(limit: Politeness, clock: list[float], statuses: list[int | None]) -> list[float]:
    found = []
    for status in statuses:
        limit.answered("h", status, None)
        found.append(max(0.0, limit._domains["h"].quiet_until - clock[0]))
        clock[0] += found[-1]
    return found


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(politeness.time, "monotonic", lambda: now[0])
    return now


def test_pauses_double_up_to_five_minutes_and_begin_anew_after_success(clock):
    limit = polite()
    assert pauses(limit, clock, [503] * 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert pauses(limit, clock, [None, 500, 429]) == [0, 0, 300]
    assert pauses(limit, clock, [200, 429, 404, 503]) == [0, 1, 0, 1]


def test_complaints_of_requests_under_way_together_count_once(clock):
    limit = polite()
    for _ in range(5):
        limit.answered("h", 429, None)
    limit.answered("h", 200, None)
    assert limit._domains["h"].quiet_until == clock[0] + 1
    limit.answered("h", 429, "50")
    limit.answered("h", 429, "10")
    assert limit._domains["h"].quiet_until == clock[0] + 50
    clock[0] += 51
    assert pauses(limit, clock, [429]) == [2]


def test_a_hundred_thousand_domains_take_bounded_memory(clock):
    limit = polite(delay_s=0.25)
    limit.answered("busy0.example", 429, "3600")
    with limit.slot("busy1.example"):
        for i in range(100_000):
            clock[0] += 0.001
            with limit.slot(f"h{i}.example"):
                pass
        assert len(limit._domains) <= politeness._MAX_DOMAINS + 1
        assert {"busy0.example", "busy1.example", "h99999.example"} <= limit._domains.keys()
        assert "h0.example" not in limit._domains


def test_domains_in_a_pause_are_forgotten_after_it_only(clock, monkeypatch):
    monkeypatch.setattr(politeness, "_MAX_DOMAINS", 10)
    limit = polite()
    for i in range(50):
        limit.answered(f"h{i}.example", 429, "60")
    assert len(limit._domains) == 50
    clock[0] += 61
    for i in range(50, 95):
        limit.answered(f"h{i}.example", 200, None)
    assert len(limit._domains) <= 11
