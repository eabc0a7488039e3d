import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.encode.overlap import ahead, full


def test_work_goes_on_while_a_result_is_looked_at() -> None:
    second_began, first_seen = threading.Event(), threading.Event()

    def work(item: int) -> int:
        if item == 1:
            second_began.set()
            assert first_seen.wait(20)
        return item * 10

    with ThreadPoolExecutor(1) as executor:
        results = ahead(work, iter(range(3)), executor, 2)
        assert next(results) == 0
        assert second_began.wait(20)
        first_seen.set()
        assert list(results) == [10, 20]


@given(st.integers(0, 12), st.integers(1, 5))
def test_order_is_kept_and_no_more_is_begun_than_said(items: int, most: int) -> None:
    begun = []

    def source() -> "object":
        for item in range(items):
            begun.append(item)
            yield item

    with ThreadPoolExecutor(3) as executor:
        for taken, result in enumerate(ahead(str, source(), executor, most)):
            assert result == str(taken)
            assert len(begun) <= taken + most
    assert len(begun) == items


def test_an_error_comes_where_its_result_would() -> None:
    with ThreadPoolExecutor(2) as executor:
        results = ahead(lambda x: 1 // x, [1, 0, 1], executor, 3)
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 6))
def test_arrays_are_joined_to_full_ones(lengths: list[int], rows: int) -> None:
    values = iter(range(100))
    arrays = [np.array([[next(values)] for _ in range(n)], np.uint8).reshape(n, 1) for n in lengths]
    found = list(full(arrays, rows))
    assert [len(array) for array in found[:-1]] == [rows] * (len(found) - 1)
    assert sum(map(len, found)) == sum(lengths)
    if found:
        assert 0 < len(found[-1]) <= rows
        assert np.concatenate(found)[:, 0].tolist() == list(range(sum(lengths)))
