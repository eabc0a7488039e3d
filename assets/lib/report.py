"""What a finished stage says on its asset page."""

import json
from collections.abc import Mapping
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


def funnel_table(funnel: Funnel) -> dg.TableMetadataValue:
    """In, kept, and dropped by reason, the most frequent first."""
    dropped = sorted(funnel.dropped.items(), key=lambda item: (-item[1], item[0]))
    rows = [("in", funnel.rows_in), ("kept", funnel.kept), *dropped]
    share = max(funnel.rows_in, 1)
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"outcome": name, "rows": count, "share": f"{count / share:.1%}"})
            for name, count in rows
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("outcome", "string"),
                dg.TableColumn("rows", "int"),
                dg.TableColumn("share", "string"),
            ]
        ),
    )


def materialized(
    finished: Finished, directory: str, extra: Mapping[str, Any] | None = None
) -> dg.MaterializeResult:
    """The materialisation of a dataset: version, counts, funnel, and the stage's own figures.

    Args:
        finished: what the stage returned.
        directory: where the dataset lies.
        extra: further metadata, pictures for example.
    """
    metadata: dict[str, Any] = {
        "dagster/row_count": finished.rows,
        "dagster/uri": directory,
        "bytes": finished.bytes,
        "rows in": finished.funnel.rows_in,
        "rows kept": finished.funnel.kept,
        "funnel": funnel_table(finished.funnel),
        "fingerprint": finished.fingerprint,
    }
    if finished.funnel.rows_in:
        metadata["kept share"] = finished.funnel.kept / finished.funnel.rows_in
    metadata |= {name: _plain(value) for name, value in finished.details.items()}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(finished.content), metadata=metadata | dict(extra or {})
    )


def _plain(value: Any) -> Any:
    """Figures as they are, structures as JSON, so that Dagster can plot the former."""
    if isinstance(value, str | int | float | bool):
        return value
    return dg.MetadataValue.json(json.loads(json.dumps(value, default=str)))
