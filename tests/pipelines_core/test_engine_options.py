"""Options of engines: misspelt ones are refused, and those of deploy/beam are known to Beam."""

import re
import shlex
from pathlib import Path

import pytest

from assets.lib.settings import Settings
from pipelines.runners import Engine, EngineError

FILES = sorted(Path(__file__).parents[2].glob("deploy/beam/*.env"))
ASSIGNMENT = re.compile(r"^(DALLE_BEAM_\w+)=(.*)$", re.MULTILINE)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (Engine("DaskRunner", ("--dask_client_adress=h:1",)), "did you mean --dask_client_address"),
        (Engine("DaskRunner", ("--dask_npartitions=many",)), "invalid int value: 'many'"),
        (Engine("DaskRunner", ("--address=h:1",)), "has no option --address"),
        (Engine("in-process", ("--flink_version=1.2",)), "invalid choice: '1.2'"),
        (Engine("FlinkRunner", ("--enviroment_type=EXTERNAL",)), "mean --environment_type"),
        (Engine("DataflowRunner", ("--machin_type=n2",)), "did you mean --machine_type"),
        (Engine("DaskRuner"), "there is no Beam runner 'DaskRuner'"),
        (Engine("nowhere.Runner"), "there is no Beam runner 'nowhere.Runner'"),
    ],
)
def test_a_misspelt_engine_is_refused(engine: Engine, said: str) -> None:
    with pytest.raises(EngineError, match=re.escape(said)):
        engine.pipeline()


def test_options_of_a_job_server_pass() -> None:
    options = Engine("PortableRunner", ("--job_endpoint=h:1", "--spark_conf=x")).parsed_options()
    assert options.get_all_options(retain_unknown_options=True)["spark_conf"] == "x"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), (None, 1)),
        (("--dask_npartitions=3",), (3, None)),
        (("--dask_partition_size=4",), (None, 4)),
    ],
)
def test_dask_spreads_single_elements_unless_told_otherwise(
    given: tuple[str, ...], expected: tuple[int | None, int | None]
) -> None:
    found = Engine("DaskRunner", given).parsed_options().get_all_options()
    assert (found["npartitions"], found["partition_size"]) == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_examples_are_what_beam_takes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assigned = {name: shlex.split(value)[0] for name, value in ASSIGNMENT.findall(file.read_text())}
    assert set(assigned) == {"DALLE_BEAM_RUNNER", "DALLE_BEAM_OPTIONS"}
    for name, value in assigned.items():
        monkeypatch.setenv(name, value)
    engine = Settings.from_environment().engine
    known = engine.parsed_options().get_all_options(retain_unknown_options=False)
    given = dict(option.removeprefix("--").partition("=")[::2] for option in engine.options)
    if engine.runner == "DaskRunner":
        given = {"address": given["dask_client_address"]}
    for name, value in given.items():
        assert str(known[name]) == (value or "True"), name
    engine.pipeline()


def test_there_is_an_example_for_each_engine() -> None:
    assert {"dask", "flink", "spark", "dataflow"} <= {file.stem for file in FILES}
