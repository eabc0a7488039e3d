"""train: the dVAE and the contrastive model on pairs, the transformer on a published manifest."""

import dagster as dg

from assets.dedupe import deduped_pairs
from assets.encode import bpe_tokenizer
from assets.lib import exhibits, model_checks, trainer
from assets.lib.freshness import WEEKLY
from assets.lib.model_slot import only_training
from assets.lib.models import TENSORS, final, imported, materialized_model
from assets.lib.partitions import all_finished_batches
from assets.lib.promotion import retraining_start
from assets.lib.settings import Settings
from assets.lib.trainer import TrainingProgram
from assets.publish import current_version, token_dataset
from pipelines import storage
from pipelines.layout import Layout, join
from pipelines.publish.manifest import read_manifest, sha256
from training import code_versions

GROUP = "train"


@dg.asset(
    group_name=GROUP,
    kinds={"torch", "torchrun"},
    owners=["team:models"],
    deps=[deduped_pairs],
    code_version=code_versions.DVAE,
    metadata=TENSORS,
    pool="gpu",
)
def dvae(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Stage one: the discrete VAE, trained on the images of every finished batch.

    One that was converted from released weights stays as it is.
    """
    layout = settings.layout
    output = layout.model("dvae")
    origin = imported(output)
    if origin is not None:
        context.log.info("%s is %s: nothing is trained; remove it to train one", output, origin)
        return materialized_model(output, {})
    with only_training(context.instance, context.run_id, "dvae"):
        program = TrainingProgram(
            "training.train_dvae",
            ("--recipe", settings.recipe, *_pairs(layout), "--output", output, *settings.updates()),
            settings.processes,
        )
        trainer.run(context, program)
        files = {name: join(output, f"{name}.png") for name in ("reconstructions", "curves")}
        return materialized_model(output, exhibits.pictures(files))


@dg.asset(
    group_name=GROUP,
    kinds={"torch", "torchrun"},
    owners=["team:models"],
    deps=[token_dataset],
    code_version=code_versions.DALLE,
    metadata=TENSORS,
    pool="gpu",
    freshness_policy=WEEKLY,
)
def dalle(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Stage two: the transformer, trained on the current version of the token dataset."""
    output = settings.layout.model("dalle")
    with only_training(context.instance, context.run_id, "dalle"):
        version = current_version(settings)
        start = retraining_start(settings, version)
        context.log.info("training begins with %s", start[-1] if start else "random weights")
        program = TrainingProgram(
            "training.train_dalle",
            (
                *("--recipe", settings.recipe, "--dataset", version, "--output", output),
                *settings.updates(),
                *start,
                *_live_samples(settings),
                *settings.transformer_options(),
            ),
            settings.processes,
        )
        trainer.run(context, program)
        files = {"curves": join(output, "curves.png")}
        return materialized_model(output, exhibits.pictures(files) | {"dataset": version})


@dg.asset(
    group_name=GROUP,
    kinds={"torch", "torchrun"},
    owners=["team:models"],
    deps=[deduped_pairs, bpe_tokenizer],
    code_version=code_versions.CONTRASTIVE,
    metadata=TENSORS,
    pool="gpu",
)
def contrastive(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """The image-text model in CLIP's form that reranks samples, trained on the same pairs."""
    layout = settings.layout
    output = layout.model("contrastive")
    with only_training(context.instance, context.run_id, "contrastive"):
        program = TrainingProgram(
            "training.train_contrastive",
            (
                *("--recipe", settings.recipe, *_pairs(layout), "--tokenizer", layout.tokenizer),
                *("--output", output, *settings.updates()),
            ),
            settings.processes,
        )
        trainer.run(context, program)
        files = {name: join(output, f"{name}.png") for name in ("retrieval", "curves")}
        return materialized_model(output, exhibits.pictures(files))


def _pairs(layout: Layout) -> list[str]:
    """Every finished batch as arguments of a training program."""
    batches = all_finished_batches(layout, "deduped_pairs")
    return [word for b in batches for word in ("--pairs", layout.dataset("deduped_pairs", b))]


def _live_samples(settings: Settings) -> tuple[str, ...]:
    """The dVAE that draws the sheets of a running training, if it is the one of the codes."""
    model = settings.layout.model("dvae")
    weights = final(model, "model.safetensors")
    wanted = read_manifest(settings.layout.token_dataset).dvae_sha256
    return ("--dvae", model) if storage.exists(weights) and sha256(weights) == wanted else ()


CHECKS = [
    model_checks.weights_finite(dvae, "dvae"),
    model_checks.weights_finite(dalle, "dalle"),
    model_checks.weights_finite(contrastive, "contrastive"),
    model_checks.codebook_alive(dvae),
]
ASSETS = [dvae, dalle, contrastive]
