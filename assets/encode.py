"""encode: pairs to byte-pair ids and image codes."""

import functools

import dagster as dg
import pyarrow as pa

from assets.dedupe import deduped_pairs
from assets.lib import exhibits, report
from assets.lib.contract_checks import contract_check, kept_in, ledger_check, rows_check
from assets.lib.partitions import all_finished_batches, crawl_batches, registered_batch
from assets.lib.settings import Settings
from pipelines import code_versions, schemas

GROUP = "encode"


@dg.asset(
    group_name=GROUP,
    kinds={"tokenizers"},
    owners=["team:data"],
    deps=[deduped_pairs],
    code_version=code_versions.TOKENIZER,
    metadata=report.described_rows(
        "an entry of the vocabulary in tokenizer.json",
        token=("string", "its bytes, each written as a printable character"),
        id=("uint16", "in the token rows; 0-255 are the bytes, then the merges as learned"),
    ),
)
def bpe_tokenizer(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Byte-level BPE over the lower-cased captions of every finished batch."""
    from pipelines.encode.bpe import train_tokenizer

    layout = settings.layout
    batches = all_finished_batches(layout, "deduped_pairs")
    context.log.info("captions of %d batches", len(batches))
    finished = train_tokenizer(batches, layout, settings.stages().bpe)
    return report.materialized(finished, layout.tokenizer)


@dg.asset(
    group_name=GROUP,
    kinds={"beam", "torch", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    # Named by its key: the model's asset is downstream of this stage's tokenizer.
    deps=[deduped_pairs, bpe_tokenizer, dg.AssetKey("dvae")],
    code_version=code_versions.TOKEN_GRIDS,
    metadata=report.definition_metadata(schemas.DATASETS["token_grids"]),
    pool="gpu",
)
def token_grids(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row for each pair and crop: byte-pair ids and the dVAE's codes."""
    from pipelines.encode.transform import encode_pairs
    from training.image_tokenizer import image_tokenizer_info, load_image_tokenizer

    batch, stages = registered_batch(context, settings), settings.stages()
    model = settings.layout.model("dvae")
    info = image_tokenizer_info(model)
    finished = encode_pairs(
        batch,
        settings.layout,
        stages.bpe,
        stages.encode,
        functools.partial(load_image_tokenizer, model, stages.encode.precision),
        info.sha256,
        info.grid,
        stages.engine,
        image_size=info.image_size,
        image_vocabulary=info.vocabulary,
    )
    directory = settings.layout.dataset(finished.dataset, batch)
    rejects = settings.layout.rejects(schemas.Stage.ENCODE, batch)
    return report.materialized(
        finished, directory, appendix=exhibits.reject_examples(finished, rejects)
    )


def token_schema(settings: Settings) -> pa.Schema:
    """The contract of token rows under the recipe's grid."""
    return schemas.token_grids(settings.training_recipe().dvae.grid)


BATCH_CHECKS = [
    contract_check("token_grids", token_schema),
    rows_check("token_grids"),
    ledger_check("token_grids", schemas.Stage.ENCODE, kept_in("deduped_pairs")),
]
CHECKS = [check.asset_check() for check in BATCH_CHECKS]
ASSETS = [bpe_tokenizer, token_grids]
