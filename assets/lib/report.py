"""What a finished stage says on its asset page."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from pipelines import schemas
from pipelines.ledger import Finished, Funnel


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The contract's columns, types and doc strings as Dagster shows them."""
    docs = schemas.describe(schema)
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=str(field.type),
                description=docs[field.name],
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


def definition_metadata(schema: pa.Schema) -> dict[str, Any]:
    """Static metadata of an asset that is one Parquet dataset."""
    return {
        "dagster/column_schema": column_schema(schema),
        "one row is": schema.metadata[b"row"].decode(),
        "contract version": schemas.CONTRACT_VERSION,
    }


def described_rows(row: str, **columns: tuple[str, str]) -> dict[str, Any]:
    """Static metadata of an asset whose rows are not those of a dataset under the contract.

    Args:
        row: what one is.
        columns: type and description by name, in order.
    """
    described = [dg.TableColumn(n, kind, doc) for n, (kind, doc) in columns.items()]
    return {"dagster/column_schema": dg.TableSchema(described), "one row is": row}


def table(
    columns: Mapping[str, str], rows: Iterable[Sequence[Any]], cell: int = 200
) -> dg.TableMetadataValue:
    """A table for an asset page.

    Args:
        columns: name to type (`string`, `int`, `float`, `bool`), in order.
        rows: values in that order.
        cell: longest text; the event log is read on every load of the page.
    """
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(dict(zip(columns, (_cell(v, cell) for v in row), strict=True)))
            for row in rows
        ],
        schema=dg.TableSchema(columns=[dg.TableColumn(n, kind) for n, kind in columns.items()]),
    )


def funnel_table(funnel: Funnel) -> dg.TableMetadataValue:
    """In, kept, and dropped by reason, the most frequent first."""
    dropped = sorted(funnel.dropped.items(), key=lambda item: (-item[1], item[0]))
    rows = [("in", funnel.rows_in), ("kept", funnel.kept), *dropped]
    whole = max(funnel.rows_in, 1)
    return table(
        {"outcome": "string", "rows": "int", "share": "string"},
        [(name, count, f"{count / whole:.1%}") for name, count in rows],
    )


def materialized(
    finished: Finished,
    directory: str,
    extra: Mapping[str, Any] | None = None,
    appendix: Mapping[str, Any] | None = None,
    leave_out: Collection[str] = (),
) -> dg.MaterializeResult:
    """The materialisation of a dataset: version, counts, funnel, and the stage's own figures.

    Args:
        finished: what the stage returned.
        directory: where the dataset lies.
        extra: further metadata to be seen first, pictures for example.
        appendix: further metadata to be seen last, long tables for example.
        leave_out: figures of the stage that `extra` shows in another form.
    """
    metadata: dict[str, Any] = {
        "dagster/row_count": finished.rows,
        "dagster/uri": directory,
        **(extra or {}),
        "bytes": finished.bytes,
        "rows in": finished.funnel.rows_in,
        "rows kept": finished.funnel.kept,
        "funnel": funnel_table(finished.funnel),
        "fingerprint": finished.fingerprint,
    }
    if finished.funnel.rows_in:
        metadata["kept share"] = finished.funnel.kept / finished.funnel.rows_in
    metadata |= {n: _plain(v) for n, v in finished.details.items() if n not in leave_out}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(finished.content), metadata=metadata | dict(appendix or {})
    )


def _cell(value: Any, longest: int) -> Any:
    if isinstance(value, str) and len(value) > longest:
        return value[: longest - 2] + ".."
    return value


def _plain(value: Any) -> Any:
    """Figures as they are, structures as JSON, so that Dagster can plot the former."""
    if isinstance(value, str | int | float | bool):
        return value
    return dg.MetadataValue.json(json.loads(json.dumps(value, default=str)))
