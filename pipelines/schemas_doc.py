"""Writes `docs/columns.md` from `pipelines.schemas`.

Run `python -m pipelines.schemas_doc docs/columns.md` after a change of the contract.
"""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from pipelines import commands
from pipelines.schemas import CONTRACT_VERSION, DATASETS, describe

_HEAD = f"""# Columns

Every column of every dataset, contract version {CONTRACT_VERSION}. How the datasets are read:
[data_contract.md](data_contract.md). `python -m pipelines.schemas_doc docs/columns.md` writes this.

`token_grids` is shown for a grid of 32; smaller recipes have a shorter `image_tokens`."""


def page() -> str:
    """Markdown: one table for each dataset."""
    parts = [_HEAD, *(_table(name, schema) for name, schema in DATASETS.items())]
    return "\n\n".join(parts) + "\n"


def _table(name: str, schema: pa.Schema) -> str:
    docs = describe(schema)
    rows = [
        f"| `{f.name}` | {f.type} | {'yes' if f.nullable else ''} | {docs[f.name]} |"
        for f in schema
    ]
    head = f"## {name}\n\nOne row is {schema.metadata[b'row'].decode()}.\n"
    return "\n".join([head, "| column | type | null? | what it is |", "|---|---|---|---|", *rows])


def main(path: Annotated[Path, typer.Argument(metavar="PAGE", help="docs/columns.md")]) -> None:
    """Write the page of every column of every dataset."""
    path.write_text(page())


if __name__ == "__main__":
    commands.run(main)
