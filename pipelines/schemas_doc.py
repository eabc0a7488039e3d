"""Writes `docs/columns.md` from `pipelines.schemas`.

Run `python -m pipelines.schemas_doc docs/columns.md` after a change of the contract.
"""

import sys
from pathlib import Path

import pyarrow as pa

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


def main(arguments: list[str]) -> None:
    """Write the page to the file named on the command line."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SystemExit("usage: python -m pipelines.schemas_doc docs/columns.md")
    Path(arguments[0]).write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
