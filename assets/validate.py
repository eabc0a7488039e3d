"""validate: pictures drawn from captions, and figures about them; the model that is promoted."""

import dataclasses
from collections.abc import Mapping

import dagster as dg

from assets.dedupe import deduped_pairs
from assets.lib import exhibits, report, report_server, trainer
from assets.lib.contract_checks import result
from assets.lib.freshness import WEEKLY
from assets.lib.models import TENSORS, figures, file_version, image_text_model, tensors
from assets.lib.promotion import history_table
from assets.lib.settings import Settings
from assets.lib.trainer import TrainingProgram
from assets.publish import current_version, token_dataset
from assets.train import contrastive, dalle, dvae
from pipelines import ledger, storage
from pipelines.layout import join
from pipelines.publish.manifest import read_manifest
from training import model_report
from training.promotion import comparison, log, move, versions
from training.promotion.comparison import DESCRIPTIONS, Check
from training.promotion.log import PromotionError

GROUP = "validate"
# What the contrastive model chooses from; DALLE_EVALUATION_OPTIONS takes up to the paper's 512.
_CANDIDATES = 8
# The event log is read on every load of the page.
_REPORT_CHARACTERS = 20_000
CODE_VERSION = "2"
# Acts only when somebody turns on the automation sensor in the UI.
_AFTER_TRAINING = dg.AutomationCondition.eager()
# A batch that is crawled is no reason to evaluate again, one that is not yet must not prevent it,
# and neither must a contrastive model that nobody trained.
_READ_IF_THERE = dg.AssetSelection.assets(contrastive, deduped_pairs)


@dg.asset(
    group_name=GROUP,
    kinds={"torch"},
    owners=["team:models"],
    deps=[dalle, dvae, token_dataset, contrastive],
    code_version=CODE_VERSION,
    metadata=report.described_rows(
        "a caption in samples.json, and its row of pictures in samples.png",
        caption=("string", "what was to be drawn"),
        split=("string", "which part of the dataset it is of: train, validation or held_out"),
        scores=("list<double>", "of its pictures by the contrastive model, the best first"),
    ),
    pool="gpu",
    automation_condition=_AFTER_TRAINING,
)
def samples(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Pictures drawn from captions of the training split and from held-out ones.

    The best come first, by the contrastive model, where there is one.
    """
    directory = settings.layout.samples
    model = image_text_model(settings)
    rerank = () if model is None else ("--rerank", model)
    layout = settings.layout
    models = ("--checkpoint", layout.model("dalle"), "--dvae", layout.model("dvae"))
    where = ("--dataset", current_version(settings), "--out", directory)
    trainer.run(context, TrainingProgram("training.sample", (*models, *where, *rerank)))
    pictures = exhibits.pictures({"samples": join(directory, "samples.png")})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_version(join(directory, "samples.png"))),
        metadata={
            "dagster/row_count": len(
                storage.read_json(join(directory, "samples.json"))["captions"]
            ),
            "dagster/uri": directory,
            **pictures,
        },
    )


@dg.asset(
    group_name=GROUP,
    kinds={"torch"},
    owners=["team:models"],
    deps=[dalle, dvae, token_dataset, contrastive, deduped_pairs],
    code_version=CODE_VERSION,
    metadata={
        "dagster/column_schema": report.column_schema(model_report.SCHEMA),
        "one row is": f"a figure in {model_report.TABLE}",
    },
    pool="gpu",
    automation_condition=_AFTER_TRAINING.ignore(_READ_IF_THERE),
)
def evaluation(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """How well the models do on what they were not trained on."""
    directory = settings.layout.evaluation
    layout = settings.layout
    models = ("--dalle", layout.model("dalle"), "--dvae", layout.model("dvae"))
    where = ("--dataset", current_version(settings), "--output", directory)
    # Of an option that is said twice the last one counts.
    options = (*_pairs(settings), *_reranking(settings), *settings.evaluating_options())
    trainer.run(context, TrainingProgram("training.evaluate", (*models, *where, *options)))
    url = join(directory, model_report.FIGURES)
    found = storage.read_json(url)
    plots = storage.list_files(directory, ".png")
    pictures = exhibits.pictures({p.rsplit("/", 1)[1].removesuffix(".png"): p for p in plots})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_version(url)),
        metadata={
            "dagster/row_count": len(found),
            "dagster/uri": directory,
            "report": _report(directory),
            **_page(settings, found["dalle_sha256"]),
            **figures(found),
            **pictures,
        },
    )


@dg.asset(
    group_name=GROUP,
    kinds={"torch"},
    owners=["team:models"],
    deps=[dalle, dvae, token_dataset],
    code_version=CODE_VERSION,
    metadata=report.described_rows(
        "a figure in comparison.json",
        name=("string", "what was measured; promoted_... is of the promoted model"),
        value=("double", "nats per image token, or a number of codes or rows"),
    ),
    pool="gpu",
)
def model_comparison(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """The transformer beside the promoted one, on the same rows that neither was trained on.

    Its blocking checks are what a model must pass to be promoted.
    """
    limits = ("--margin", str(settings.retrain.margin))
    least = ("--least-perplexity", str(settings.least_perplexity()))
    arguments = ("compare", "--data-root", settings.layout.root, "--record", *limits, *least)
    trainer.run(context, TrainingProgram("training.promote", arguments))
    found = comparison.read(settings.layout)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_version(comparison.url(settings.layout))),
        metadata={
            "dagster/row_count": len(found.figures),
            "dagster/uri": comparison.url(settings.layout),
            "model": found.candidate.version,
            "promoted": found.promoted or "none yet",
            **figures(found.figures),
        },
    )


@dg.asset(
    group_name=GROUP,
    kinds={"safetensors"},
    owners=["team:models"],
    deps=[model_comparison],
    code_version=CODE_VERSION,
    metadata=TENSORS,
    freshness_policy=WEEKLY,
)
def promoted_model(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """A copy of dVAE and transformer that no training overwrites, kept until it is removed.

    A blocking check stops only its own run, so what was found is asked for here once more.
    """
    layout = settings.layout
    try:
        entry = move.promote(
            layout, comparison.read(layout), who=f"run {context.run_id}", why="passed every check"
        )
    except PromotionError as error:
        raise dg.Failure(
            description=f"{error}. The promoted model stays; docs/operations.md says how to "
            "overrule.",
            allow_retries=False,
        ) from error
    directory = versions.directory(layout, entry.model.version)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(entry.model.version),
        metadata={
            "dagster/row_count": sum(
                tensors(join(directory, name)) for name in (versions.DALLE, versions.DVAE)
            ),
            "dagster/uri": directory,
            **dataclasses.asdict(entry.model),
            **_page(settings, entry.model.dalle_sha256),
            **figures(entry.figures),
            "since": entry.when,
            "history": history_table(log.history(layout)),
        },
    )


def _report(directory: str) -> dg.MarkdownMetadataValue:
    """Notes and figures, which the UI opens; its pictures are on the same page."""
    text = storage.read_bytes(join(directory, model_report.SHORT)).decode()
    return dg.MetadataValue.md(text[:_REPORT_CHARACTERS])


def _page(settings: Settings, weights: str) -> Mapping[str, dg.UrlMetadataValue]:
    """A link to the report of a transformer, by its hash; none if it was not evaluated."""
    names = (model_report.own(weights), model_report.REPORT)
    if not storage.exists(join(settings.layout.evaluation, *names)):
        return {}
    return {"report with pictures": dg.MetadataValue.url(report_server.address(*names))}


def _pairs(settings: Settings) -> list[str]:
    """The published batches whose pictures are still there, as arguments."""
    batches = read_manifest(current_version(settings)).batches
    places = (settings.layout.dataset("deduped_pairs", batch) for batch in batches)
    kept = (place for place in places if storage.exists(join(place, ledger.SUCCESS)))
    return [word for place in kept for word in ("--pairs", place)]


def _reranking(settings: Settings) -> tuple[str, ...]:
    model = image_text_model(settings)
    return () if model is None else ("--rerank", model, "--candidates", str(_CANDIDATES))


def _promotion_check(check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=model_comparison,
        name=f"promotion_{check}",
        description=DESCRIPTIONS[check],
        blocking=True,
    )
    def found(settings: Settings) -> dg.AssetCheckResult:
        return result(comparison.read(settings.layout).problems[check])

    return found


CHECKS = [_promotion_check(check) for check in Check]
ASSETS = [samples, evaluation, model_comparison, promoted_model]
