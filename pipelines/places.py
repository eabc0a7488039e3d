"""Whether a directory may be written to: nothing that somebody keeps there is replaced."""

import re

from pipelines import ledger, parquet, storage
from pipelines.layout import join

_PART = re.compile(r"part-\d{5,}\.parquet")


def refuse_other_data(output: str, dataset: str) -> None:
    """Make sure that writing `dataset` into `output` replaces nothing else.

    Raises:
        ValueError: if the directory holds another dataset, or Parquet files of somebody else.
    """
    done = ledger.read_success(output)
    held = None if done is None else done.dataset
    files = storage.list_files(output, ".parquet")
    foreign = [url for url in files if not _PART.fullmatch(url.rsplit("/", 1)[1])]
    if foreign:
        held = foreign[0].rsplit("/", 1)[1]
    elif held is None and files and not storage.exists(join(output, "_receipts")):
        about = parquet.read_schema(files[0]).metadata or {}
        held = about.get(b"dataset", b"files of somebody else").decode()
    if held not in (None, dataset):
        raise ValueError(f"{output} holds {held}: choose another place for {dataset}")
