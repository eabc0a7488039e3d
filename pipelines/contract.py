"""Whether stored data keeps the contract: its columns, its rows and its counts, as sentences."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import ledger, parquet, schemas, storage


def schema_problems(directory: str, schema: pa.Schema) -> list[str]:
    """What in the Parquet files of a directory breaks the contract's columns."""
    return [
        f"{url}: {problem}"
        for url in storage.list_files(directory, ".parquet")
        for problem in _file_problems(url, schema)
    ]


def _file_problems(url: str, schema: pa.Schema) -> list[str]:
    try:
        return schemas.violations(schema, parquet.read_schema(url))
    except pa.ArrowInvalid as error:
        return [f"it cannot be read ({error})"]


def contract_problems(directory: str, schema: pa.Schema) -> list[str]:
    """As `schema_problems`; and whether a finished directory holds the rows that it says."""
    finished = ledger.read_success(directory)
    if finished is None:
        return [f"{directory} has no {ledger.SUCCESS} marker"]
    problems = schema_problems(directory, schema)
    if problems:
        return problems
    rows = sum(_count_rows(url) for url in storage.list_files(directory, ".parquet"))
    if rows != finished.rows:
        return [f"{directory} holds {rows} rows, its marker says {finished.rows}"]
    return []


def ledger_problems(directory: str, rejects: str | None, rows_in: int | None = None) -> list[str]:
    """Where the counts of a finished directory do not add up.

    Args:
        directory: the dataset.
        rejects: directory of the rows that the stage dropped; None where they stay in the dataset.
        rows_in: rows of the stage before, where every one of them must come in.
    """
    finished = ledger.read_success(directory)
    if finished is None:
        return [f"{directory} has no {ledger.SUCCESS} marker"]
    funnel, problems = finished.funnel, []
    dropped = sum(funnel.dropped.values())
    if funnel.rows_in != funnel.kept + dropped:
        problems.append(f"{funnel.rows_in} in, but {funnel.kept} kept + {dropped} dropped")
    if rows_in is not None and funnel.rows_in != rows_in:
        problems.append(f"{rows_in} rows left the stage before, {funnel.rows_in} came in")
    if rejects is None:
        return problems
    found = sum(_count_rows(url) for url in storage.list_files(rejects, ".parquet"))
    if found != dropped:
        problems.append(f"{dropped} dropped by the ledger, {found} rows in {rejects}")
    return problems


def _count_rows(url: str) -> int:
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        return int(pq.read_metadata(stream).num_rows)
