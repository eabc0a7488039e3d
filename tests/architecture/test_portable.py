"""A pipeline that not every engine would run alike is refused on each, before it runs."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# ruff: noqa: TID253 - the test of pipelines
import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.portable_subset import NotPortableError, require_portable
from pipelines.runners import Engine

ROOT = Path(__file__).parents[2]
Build = Callable[[Any], Any]


class GivesAtTheEnd(beam.DoFn):
    def process(self, element: int) -> Iterator[int]:
        yield element

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield GlobalWindows.windowed_value(0)


class TakesBatches(beam.DoFn):
    @beam.DoFn.yields_elements
    def process_batch(self, batch: list[int]) -> Iterator[int]:
        yield from batch


class Counts(beam.DoFn):
    SEEN = beam.DoFn.StateParam(ReadModifyWriteStateSpec("seen", beam.coders.VarIntCoder()))

    def process(self, element: tuple[int, int], seen: Any = SEEN) -> None:
        seen.write((seen.read() or 0) + 1)


def _numbers(pipeline: Any, label: str = "numbers") -> Any:
    return pipeline | label >> beam.Create([1, 2, 3])


def _pairs(pipeline: Any, label: str = "pairs") -> Any:
    return pipeline | label >> beam.Create([(1, 2), (1, 3)])


def _two_ends(pipeline: Any) -> None:
    numbers = _numbers(pipeline)
    _ = numbers | "one" >> beam.Map(print)
    _ = numbers | "other" >> beam.Map(print)


def _tagged(pipeline: Any) -> None:
    sorted_out = _numbers(pipeline) | beam.Partition(lambda n, _: n % 2, 2)
    _ = sorted_out | beam.Flatten()


ELSEWHERE = {
    "finish_bundle": lambda p: _numbers(p) | beam.ParDo(GivesAtTheEnd()),
    "BatchElements": lambda p: _numbers(p) | beam.BatchElements() | beam.Map(print),
    "process_batch": lambda p: _numbers(p) | beam.ParDo(TakesBatches()),
    "state": lambda p: _pairs(p) | beam.ParDo(Counts()),
    "tagged outputs": _tagged,
    "Create is none": lambda p: p | beam.Impulse(),
    "windows": lambda p: _numbers(p) | beam.WindowInto(FixedWindows(1)) | beam.Map(print),
    "exceptions": lambda p: (
        _numbers(p) | beam.Map(print).with_exception_handling() | beam.Flatten()
    ),
    "two ends": _two_ends,
    "Parquet source": lambda p: (
        p | beam.io.ReadFromParquet("none-*", validate=False) | beam.Map(print)
    ),
    "Parquet sink": lambda p: (
        _numbers(p) | beam.io.WriteToParquet("/nowhere", pa.schema([("n", pa.int64())]))
    ),
    "text sink": lambda p: _numbers(p) | beam.io.WriteToText("/nowhere"),
}
SAID = {
    "finish_bundle": "give output in process",
    "BatchElements": "finish_bundle",
    "process_batch": "make the batches elements",
    "state": "keeps state",
    "tagged outputs": "outcome in a column",
    "Create is none": "Impulse is none of Create",
    "windows": "WindowInto is none of",
    "exceptions": "outcome in a column",
    "two ends": "ends in 'one' and 'other'",
    "Parquet source": "record batches",
    "Parquet sink": "finish_bundle",
    "text sink": "record batches",
}
EVERYWHERE = {
    "map": lambda p: _numbers(p) | beam.Reshuffle() | beam.FlatMap(lambda n: [n]) | beam.Map(print),
    "group": lambda p: _pairs(p) | beam.GroupByKey() | beam.Map(print),
    "join": lambda p: (_pairs(p, "a"), _pairs(p, "b")) | beam.CoGroupByKey(),
    "combine": lambda p: _pairs(p) | beam.CombinePerKey(sum),
    "total": lambda p: _numbers(p) | beam.CombineGlobally(sum),
    "flatten": lambda p: (_numbers(p, "a"), _numbers(p, "b")) | beam.Flatten() | beam.Distinct(),
    "look up": lambda p: (
        _numbers(p) | beam.Map(lambda n, known: n in known, beam.pvalue.AsList(_numbers(p, "b")))
    ),
}


@pytest.mark.parametrize("engine", ["in-process", "DaskRunner", "PortableRunner"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_leaves_the_subset_is_refused_before_it_runs(name: str, engine: str) -> None:
    # Nobody answers at that address: a pipeline that is run would say so instead.
    away = {
        "in-process": (),
        "DaskRunner": ("--dask_client_address=tcp://127.0.0.1:1",),
        "PortableRunner": ("--job_endpoint=127.0.0.1:1", "--environment_type=LOOPBACK"),
    }
    pipeline = Engine(engine, away[engine]).pipeline()
    ELSEWHERE[name](pipeline)
    with pytest.raises(NotPortableError, match=SAID[name]):
        pipeline.run()


@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_subset_passes(name: str) -> None:
    pipeline = Engine().pipeline()
    EVERYWHERE[name](pipeline)
    require_portable(pipeline)


def test_only_the_engine_makes_pipelines() -> None:
    """Nothing goes around the check."""
    makers = []
    for room in ("pipelines", "training", "assets"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(node, "attr", getattr(node, "id", None))
                if isinstance(node, ast.Attribute | ast.Name) and name in (
                    "Pipeline",
                    "TestPipeline",
                ):
                    makers.append(str(path.relative_to(ROOT)))
    assert set(makers) == {"pipelines/runners.py"}
