"""dedupe: what the hashes may have missed, by the embeddings of the contrastive model.

No job selects this asset: whoever wants the columns materialises it.
"""

import functools
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.dedupe import GROUP, coco_hash_index, deduped_pairs
from assets.lib import exhibits, report
from assets.lib.contract_checks import contract_check
from assets.lib.exhibits import Captioned
from assets.lib.home import UserError
from assets.lib.models import required_image_text_model
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from pipelines import code_versions
from pipelines.dedupe.embedding_schema import overlap_schema
from pipelines.layout import Layout

_SHOWN = 32
_SHEET_BYTES = 120_000


class OverlapConfig(dg.Config):
    """How near is too near."""

    threshold: float = Field(
        default=0.95, description="cosine of two embeddings from which on a pair is flagged"
    )


@dg.asset(
    group_name=GROUP,
    kinds={"beam", "torch", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    deps=[deduped_pairs, coco_hash_index, dg.AssetKey("contrastive")],
    code_version=code_versions.EMBEDDING_OVERLAP,
    metadata=report.definition_metadata(overlap_schema()),
)
def embedding_overlap(
    context: dg.AssetExecutionContext, config: OverlapConfig, settings: Settings
) -> dg.MaterializeResult:
    """The nearest reference image of every kept pair, by the contrastive model; flags only."""
    from pipelines.dedupe.embedding import find_overlap
    from pipelines.dedupe.embedding_references import Encoder
    from training.contrastive.checkpoint import model_id
    from training.contrastive.columns import load_image_encoder

    batch, layout = registered_batch(context, settings), settings.layout
    path = required_image_text_model(settings)
    try:
        encoder = Encoder(functools.partial(load_image_encoder, path), model_id(Path(path)))
        finished = find_overlap(batch, layout, encoder, config.threshold, settings.engine)
    except ValueError as error:
        raise UserError(str(error)) from error
    directory = layout.dataset(finished.dataset, batch)
    return report.materialized(finished, directory, _nearest(layout, batch))


def _nearest(layout: Layout, batch: str) -> dict[str, dg.MarkdownMetadataValue]:
    """A sheet of the nearest pairs, the nearest first, so that a person can set the threshold."""
    from pipelines.dedupe.embedding_nearest import nearest_pairs

    found = nearest_pairs(
        layout.dataset("embedding_overlap", batch),
        layout.dataset("deduped_pairs", batch),
        layout.dataset("coco_hash_index"),
        _SHOWN,
    )
    pairs = [
        (
            Captioned(near.picture, f"{near.similarity:.3f} {near.caption}"),
            Captioned(near.original, f"reference {near.reference}"),
        )
        for near in found
    ]
    if not pairs:
        return {}
    return {"nearest": exhibits.inline("nearest", exhibits.side_by_side(pairs), _SHEET_BYTES)}


CHECKS = [contract_check("embedding_overlap", lambda _settings: overlap_schema()).asset_check()]
ASSETS = [embedding_overlap]
