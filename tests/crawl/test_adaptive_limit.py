import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.crawl.http.outcomes import Outcome
from pipelines.crawl.http.politeness import AdaptiveLimit


def test_the_limit_falls_when_half_of_the_exchanges_do_not_get_through_and_grows_back():
    limit = AdaptiveLimit(32)
    for _ in range(15):
        limit.ended(Outcome.TIMEOUT)
    assert limit.limit == 32
    limit.ended(Outcome.DNS)
    assert limit.limit == 16
    for _ in range(16):
        limit.ended(Outcome.CONNECT)
    assert limit.limit == 8
    for _ in range(64):
        limit.ended(Outcome.TIMEOUT)
    assert limit.limit == 4
    for _ in range(9):
        limit.ended(Outcome.OK)
    assert limit.limit in (5, 6)
    for _ in range(600):
        limit.ended(Outcome.NOT_FOUND)
    assert limit.limit == 32


def test_a_minority_of_failures_changes_nothing():
    limit = AdaptiveLimit(8)
    for _ in range(100):
        limit.ended(Outcome.TIMEOUT)
        limit.ended(Outcome.OK)
        limit.ended(Outcome.HTTP_5XX)
    assert limit.limit == 8


@pytest.mark.parametrize("most", [1, 3, 64])
def test_the_least_is_an_eighth_or_one(most):
    limit = AdaptiveLimit(most)
    for _ in range(500):
        limit.ended(Outcome.DNS)
    assert limit.limit == max(1, most // 8)


def test_no_more_than_the_limit_run_at_once():
    limit = AdaptiveLimit(5)
    lock = threading.Lock()
    running = most = 0

    def once(_: int) -> None:
        nonlocal running, most
        with limit.slot():
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.005)
            with lock:
                running -= 1

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(once, range(60)))
    assert most == 5
    assert limit._active == 0


def test_who_waits_is_let_in_in_order_when_one_leaves_or_the_limit_grows():
    limit = AdaptiveLimit(8)
    for _ in range(500):
        limit.ended(Outcome.DNS)
    order: list[int] = []
    go_on = threading.Event()

    def once(i: int) -> None:
        with limit.slot():
            order.append(i)
            go_on.wait(5)

    threads = [threading.Thread(target=once, args=(i,)) for i in range(4)]
    for i, thread in enumerate(threads):
        thread.start()
        while limit._active + len(limit._waiting) <= i:
            time.sleep(0.001)
    time.sleep(0.02)
    assert order == [0]
    limit.ended(Outcome.OK)
    while len(order) < 2:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(5)
    # The last two were let in at once, as the first two left.
    assert order[:2] == [0, 1]
    assert sorted(order) == [0, 1, 2, 3]


def test_an_exchange_that_raises_leaves():
    limit = AdaptiveLimit(1)
    with pytest.raises(KeyboardInterrupt), limit.slot():
        raise KeyboardInterrupt
    with limit.slot():
        pass
