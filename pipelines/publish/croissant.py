"""`croissant.json`: the version described for tools that read Croissant 1.0.

The vocabulary is that of https://docs.mlcommons.org/croissant/docs/croissant-spec.html. Like the
card it holds no time and no version, so that equal rows give an equal file.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.publish.manifest import Manifest, PublishedFile

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "recordSet": "cr:recordSet",
    "repeated": "cr:repeated",
    "sc": "https://schema.org/",
    "source": "cr:source",
}

_PARQUET = "application/x-parquet"
_PAPER = "https://arxiv.org/abs/2102.12092"


def render(manifest: Manifest, tables: Mapping[str, pa.Schema]) -> str:
    """Text of `croissant.json`.

    Args:
        manifest: of the version, which has no name yet.
        tables: schema of each of its tables, by the table's name.
    """
    plain = [
        f for f in manifest.files if f not in (*manifest.token_files, *manifest.metadata_files)
    ]
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": manifest.title,
        "description": manifest.description,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": manifest.licences,
        "citeAs": f"Made for the method of {_PAPER}.",
        "url": _PAPER,
        "isLiveDataset": False,
        "distribution": [*map(_file_set, tables), *map(_file_object, plain)],
        "recordSet": [_record_set(name, schema) for name, schema in tables.items()],
    }
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def _file_set(table: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": table,
        "name": table,
        "encodingFormat": _PARQUET,
        "includes": f"{table}/*.parquet",
    }


def _file_object(file: PublishedFile) -> dict[str, Any]:
    kind = (
        "application/json" if file.path.endswith(".json") else "image/" + file.path.rsplit(".")[-1]
    )
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": file.path,
        "encodingFormat": kind,
        "sha256": file.sha256,
    }


def _record_set(table: str, schema: pa.Schema) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": f"{table}_rows",
        "name": f"{table}_rows",
        "description": f"One row is {(schema.metadata or {}).get(b'row', b'a row').decode()}.",
        "field": [_field(table, field) for field in schema],
    }


def _field(table: str, field: pa.Field) -> dict[str, Any]:
    repeated = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
    described = {
        "@type": "cr:Field",
        "@id": f"{table}_rows/{field.name}",
        "name": field.name,
        "description": (field.metadata or {}).get(b"doc", b"").decode(),
        "dataType": _data_type(field.type.value_type if repeated else field.type),
        "source": {"fileSet": {"@id": table}, "extract": {"column": field.name}},
    }
    return described | ({"repeated": True} if repeated else {})


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    # Croissant 1.0 has no type for bytes, as uid and the hashes are.
    return "sc:Text"
