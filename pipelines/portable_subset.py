"""The subset of Beam that gives the same data on every engine, checked before a pipeline runs.

Elements are made by Create, pass ParDo (Map, FlatMap, Filter), Reshuffle, GroupByKey, Flatten and
what is composed of them (CoGroupByKey, the Combines, Distinct), may be looked up as small side
inputs, and end in one place. Outside it engines differ, and Beam's Dask runner loses or doubles
data without a word: it runs the last end of a pipeline only, drops what `finish_bundle` gives,
doubles tagged outputs, and passes over every other transform as if it were not there.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.pipeline import AppliedPTransform

_WRITES = "read and write record batches in a DoFn of your own"


class NotPortableError(ValueError):
    """A pipeline that not every engine would run alike."""


def require_portable(pipeline: "beam.Pipeline") -> None:
    """Refuse a pipeline that leaves the subset.

    Raises:
        NotPortableError: naming the first transform that does, and what to do instead.
    """
    nodes = list(_steps(pipeline))
    for node in nodes:
        problem = _problem(node)
        if problem is not None:
            raise NotPortableError(
                f"'{node.full_label}' would not run alike on every engine: {problem}"
            )
    ends = _ends(nodes)
    if len(ends) > 1:
        names = " and ".join(f"'{node.full_label}'" for node in ends)
        raise NotPortableError(
            f"the pipeline ends in {names}, of which some engines run only the last: end in one "
            "place (Flatten), or make two pipelines"
        )


def _steps(pipeline: "beam.Pipeline") -> Iterator["AppliedPTransform"]:
    """Every transform that is not composed of others, and each Create and Reshuffle as one."""
    import apache_beam as beam
    from apache_beam.pipeline import PipelineVisitor

    found: list[AppliedPTransform] = []
    whole = (beam.Create, beam.Reshuffle)

    class Steps(PipelineVisitor):
        inside = 0

        def enter_composite_transform(self, transform_node: "AppliedPTransform") -> None:
            if isinstance(transform_node.transform, whole):
                if not self.inside:
                    found.append(transform_node)
                self.inside += 1

        def leave_composite_transform(self, transform_node: "AppliedPTransform") -> None:
            self.inside -= isinstance(transform_node.transform, whole)

        def visit_transform(self, transform_node: "AppliedPTransform") -> None:
            if not self.inside:
                found.append(transform_node)

    pipeline.visit(Steps())
    return iter(found)


def _problem(node: "AppliedPTransform") -> str | None:
    """Why a transform is outside the subset, and what to do instead."""
    import apache_beam as beam

    transform = node.transform
    # The Dask runner compares classes: a subclass is passed over.
    if type(transform) not in (
        beam.Create, beam.Reshuffle, beam.ParDo, beam.GroupByKey, beam.Flatten
    ):  # fmt: skip
        name = type(transform).__name__
        return f"{name} is none of Create, ParDo, Reshuffle, GroupByKey and Flatten; {_WRITES}"
    if set(node.outputs) - {None}:
        return "it has tagged outputs; give a row its outcome in a column"
    return _problem_of_function(transform.fn) if isinstance(transform, beam.ParDo) else None


def _problem_of_function(function: Any) -> str | None:
    import apache_beam as beam
    from apache_beam.runners.common import DoFnSignature

    kind, name = type(function), type(function).__name__
    if kind.finish_bundle is not beam.DoFn.finish_bundle:
        return f"{name} has finish_bundle; give output in process, and let go of things in teardown"
    if kind.process_batch is not beam.DoFn.process_batch:
        return f"{name} has process_batch; make the batches elements of process"
    signature = DoFnSignature(function)
    if signature.is_splittable_dofn():
        return f"{name} is splittable; {_WRITES}"
    if signature.is_stateful_dofn():
        return f"{name} keeps state or timers; group by key first"
    return None


def _ends(nodes: list["AppliedPTransform"]) -> list["AppliedPTransform"]:
    """The transforms whose output nothing reads."""
    read = {id(value) for node in nodes for value in node.inputs}
    read |= {id(side.pvalue) for node in nodes for side in node.side_inputs}
    return [n for n in nodes if not any(id(value) in read for value in n.outputs.values())]
