"""Beam engines by name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import apache_beam as beam

# Beam's own default runner tries to download a binary at its first use, so the in-process one is
# always named; Beam's list of short names leaves the Dask one out.
_RUNNERS = {
    "in-process": "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner",
    "DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner",
}


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
        """A new pipeline on this engine; run it with `with`."""
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner

        name = _RUNNERS.get(self.runner, self.runner)
        options = PipelineOptions(list(self.options), save_main_session=False)
        return beam.Pipeline(runner=create_runner(name), options=options)
