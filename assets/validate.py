"""validate: pictures drawn from captions, and figures about them."""

import dagster as dg

from assets.lib import exhibits, trainer
from assets.lib.models import figures, file_version, image_text_model
from assets.lib.settings import Settings
from assets.lib.trainer import TrainingProgram
from assets.publish import current_version, token_dataset
from assets.train import contrastive, dalle, dvae
from pipelines import storage
from pipelines.layout import join

GROUP = "validate"
CODE_VERSION = "1"


@dg.asset(
    group_name=GROUP,
    kinds={"torch"},
    owners=["team:models"],
    deps=[dalle, dvae, token_dataset, contrastive],
    code_version=CODE_VERSION,
    pool="gpu",
)
def samples(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Pictures drawn from captions of the training split and from held-out ones.

    The best come first, by the contrastive model, where there is one.
    """
    directory = settings.layout.samples
    model = image_text_model(settings)
    rerank = () if model is None else ("--rerank", model)
    trainer.run(context, _program("training.sample", settings, directory, *rerank))
    pictures = exhibits.pictures({"samples": join(directory, "samples.png")})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_version(join(directory, "samples.png"))),
        metadata={"dagster/uri": directory, **pictures},
    )


@dg.asset(
    group_name=GROUP,
    kinds={"torch"},
    owners=["team:models"],
    deps=[dalle, dvae, token_dataset],
    code_version=CODE_VERSION,
    pool="gpu",
)
def evaluation(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """How well the models do on what they were not trained on."""
    directory = settings.layout.evaluation
    trainer.run(context, _program("training.evaluate", settings, directory))
    url, report = join(directory, "evaluation.json"), join(directory, "report.html")
    plots = storage.list_files(directory, ".png")
    pictures = exhibits.pictures({p.rsplit("/", 1)[1].removesuffix(".png"): p for p in plots})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(file_version(url)),
        metadata={
            "dagster/uri": directory,
            "report": dg.MetadataValue.path(report),
            **figures(storage.read_json(url)),
            **pictures,
        },
    )


def _program(module: str, settings: Settings, output: str, *options: str) -> TrainingProgram:
    layout = settings.layout
    models = ("--dalle", layout.model("dalle"), "--dvae", layout.model("dvae"))
    dataset = ("--dataset", current_version(settings))
    return TrainingProgram(module, (*models, *dataset, "--output", output, *options))


ASSETS = [samples, evaluation]
