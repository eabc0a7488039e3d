"""curate: optional scores of curated pairs, each a dataset of its own.

No job selects these assets: whoever wants the column materialises them.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from assets.curate import curated_pairs
from assets.lib import report
from assets.lib.contract_checks import contract_check
from assets.lib.home import UserError
from assets.lib.models import required_image_text_model
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from pipelines import code_versions
from pipelines.curate import score_models, scores

_DEFINITION: dict[str, Any] = {
    "group_name": "curate",
    "kinds": {"beam", "onnx", "parquet"},
    "owners": ["team:data"],
    "partitions_def": crawl_batches,
    "deps": [curated_pairs],
    "code_version": code_versions.SCORES,
}
_NSFW = scores.scores_schema("nsfw", score_models.NSFW_DOC)
_TEXT = scores.scores_schema("text_area", score_models.TEXT_DOC)
_CLIP = scores.scores_schema("clip", score_models.CLIP_DOC)


@dg.asset(**_DEFINITION, metadata=report.definition_metadata(_NSFW))
def nsfw_scores(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """How likely each curated picture is pornographic; needs the extra `scores`."""
    return _scored(context, settings, score_models.nsfw_score)


@dg.asset(**_DEFINITION, metadata=report.definition_metadata(_TEXT))
def text_area_scores(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """How much of each curated picture shows text; needs the extra `scores` and its detector."""
    return _scored(context, settings, score_models.text_score)


@dg.asset(
    **_DEFINITION
    | {"kinds": {"beam", "torch", "parquet"}, "deps": [curated_pairs, dg.AssetKey("contrastive")]},
    metadata=report.definition_metadata(_CLIP),
)
def clip_scores(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """How well each curated picture fits its caption, by the contrastive model or open_clip's."""
    return _scored(context, settings, functools.partial(_clip_score, settings))


def _clip_score(settings: Settings) -> scores.Score:
    from training.contrastive.checkpoint import model_id
    from training.contrastive.columns import load_pair_scorer

    path = required_image_text_model(settings)
    load = functools.partial(load_pair_scorer, path)
    return scores.Score("clip", score_models.CLIP_DOC, load, model_id(Path(path)))


def _scored(
    context: dg.AssetExecutionContext, settings: Settings, score: Callable[[], scores.Score]
) -> dg.MaterializeResult:
    try:
        wanted = score()
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from error
    batch = registered_batch(context, settings)
    finished = scores.score_pairs(batch, settings.layout, wanted, settings.engine)
    directory = settings.layout.dataset(finished.dataset, batch)
    return report.materialized(finished, directory, {"model": wanted.model})


CHECKS = [
    contract_check("nsfw_scores", lambda _settings: _NSFW).asset_check(),
    contract_check("text_area_scores", lambda _settings: _TEXT).asset_check(),
    contract_check("clip_scores", lambda _settings: _CLIP).asset_check(),
]
ASSETS = [nsfw_scores, text_area_scores, clip_scores]
