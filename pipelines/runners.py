"""Beam engines by name."""

import argparse
import contextlib
import difflib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

_DASK = "DaskRunner"
# Beam's own default runner tries to download a binary at its first use, so the in-process one is
# always named; Beam's list of short names leaves the Dask one out.
_RUNNERS = {
    "in-process": "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner",
    _DASK: "apache_beam.runners.dask.dask_runner.DaskRunner",
}
# They ask a job server, which knows options that are unknown here.
_WITH_JOB_SERVER = ("PortableRunner", "FlinkRunner", "SparkRunner")
# Likeness from which on an unknown name is taken for a misspelt one.
_NEARLY = 0.85
_DASK_PARTITIONS = ("--dask_npartitions", "--dask_partition_size")


class EngineError(ValueError):
    """An engine that cannot be had as it is described."""


@dataclass(frozen=True)
class Engine:
    """Which Beam runner executes a pipeline.

    Attributes:
        runner: `in-process`, or the name of any Beam runner ("DaskRunner", "FlinkRunner",
            "PortableRunner", "DataflowRunner"...).
        options: further Beam options as on its command line, e.g. `--job_endpoint=host:8099`.
    """

    runner: str = "in-process"
    options: tuple[str, ...] = ()

    def pipeline(self) -> "beam.Pipeline":
        """A new pipeline on this engine; run it with `with`.

        Before it runs, it is held against the portable subset (`portable_subset`).

        Raises:
            EngineError: if Beam has no such runner, or the runner no such options.
        """
        from apache_beam.runners.runner import create_runner

        try:
            runner = create_runner(_RUNNERS.get(self.runner, self.runner))
        except (ValueError, ImportError, AttributeError) as error:
            raise EngineError(f"there is no Beam runner {self.runner!r}: {error}") from error
        return _pipeline_class()(runner=runner, options=self.parsed_options())

    def parsed_options(self) -> "PipelineOptions":
        """The options as Beam understands them.

        Raises:
            EngineError: if one is unknown or has a value that makes no sense.
        """
        from apache_beam.options.pipeline_options import PipelineOptions

        given = list(self.options)
        if self.runner == _DASK:
            # Importing it makes its options known.
            from apache_beam.runners.dask import dask_runner  # noqa: F401

            # An element is a shard of work; Beam would hand a worker 128 of them at once.
            if not any(option.startswith(_DASK_PARTITIONS) for option in given):
                given.append(f"{_DASK_PARTITIONS[1]}=1")
        options = PipelineOptions(given, save_main_session=False)
        flags: list[str] = []
        unknown: list[str] = []

        def look(parser: argparse.ArgumentParser) -> None:
            flags.extend(parser._option_string_actions)
            unknown.extend(parser.parse_known_args(given)[1])

        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                options.get_all_options(add_extra_args_fn=look)
        except SystemExit as error:  # argparse prints and exits
            said = complaint.getvalue().strip().rpartition("error: ")[2]
            raise EngineError(f"Beam options {' '.join(given)}: {said}") from error
        for word in unknown:
            self._refuse_unknown(word.partition("=")[0], flags)
        return options

    def _refuse_unknown(self, name: str, known: list[str]) -> None:
        close = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
        if close or self.runner not in _WITH_JOB_SERVER:
            hint = f"; did you mean {close[0]}?" if close else ""
            raise EngineError(f"Beam's {self.runner} has no option {name}{hint}")


def _pipeline_class() -> type["beam.Pipeline"]:
    import apache_beam as beam

    from pipelines.portable_subset import require_portable

    class PortablePipeline(beam.Pipeline):
        """A pipeline that every engine runs alike."""

        result: Any = None

        def run(self, test_runner_api: bool | str = "AUTO") -> Any:
            require_portable(self)
            return super().run(test_runner_api)

        def __exit__(self, *raised: Any) -> None:
            try:
                super().__exit__(*raised)
            finally:
                # Beam leaves Dask's client open: the cluster would work on for a run that is gone.
                client = getattr(self.result, "client", None)
                if client is not None:
                    client.close()

    return PortablePipeline
