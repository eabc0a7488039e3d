"""The one resource: where the data is, which recipe, how it is crawled and on which engine."""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.lib.home import UserError, decimal, location, whole_number
from assets.lib.retrain_settings import RetrainSettings
from assets.lib.stages import StageConfigs, stage_configs
from pipelines.layout import Layout
from pipelines.runners import Engine

if TYPE_CHECKING:
    from training.config import Recipe

_DEFAULT_PROCESSES = 2
_DOMAIN_LIMIT = re.compile(r"[^=/\s]+=[1-9]\d*/\d+(\.\d+)?")
REPOSITORY = Path(__file__).resolve().parents[2]


def demo_directory() -> Path:
    """Where the demonstration keeps its web, its data and its results (DALLE_DEMO_DIRECTORY)."""
    return Path(os.environ.get("DALLE_DEMO_DIRECTORY") or REPOSITORY / "demo").absolute()


class CrawlSettings(dg.Config):
    """How this deployment crawls; the defaults are those of `pipelines.crawl.config`.

    Attributes:
        contact: URL or e-mail address for owners of crawled sites (DALLE_CRAWL_CONTACT).
        agent: product token, which robots.txt addresses (DALLE_CRAWL_AGENT).
        takedown: file of what must not be fetched or kept (DALLE_CRAWL_TAKEDOWN).
        concurrency: connections open at once, per process (DALLE_CRAWL_CONCURRENCY).
        domain_connections: the same for one registrable domain (DALLE_CRAWL_DOMAIN_CONNECTIONS).
        domain_delay: seconds between two requests to one (DALLE_CRAWL_DOMAIN_DELAY).
        domain_limits: exceptions from the two, as `DOMAIN=CONNECTIONS/SECONDS`, separated by
            spaces (DALLE_CRAWL_DOMAIN_LIMITS).
        processes: worker processes that crawl at the same time, over all machines; they share
            the domain's limits out (DALLE_CRAWL_PROCESSES).
        inbox: directory or fsspec URL whose new files become batches (DALLE_CRAWL_INBOX).
    """

    contact: str = ""
    agent: str = "dalle-graph"
    takedown: str = ""
    concurrency: int = 32
    domain_connections: int = 4
    domain_delay: float = 0.25
    domain_limits: str = ""
    processes: int = 1
    inbox: str = ""

    @classmethod
    def from_environment(cls) -> "CrawlSettings":
        """The defaults, each overridden by its environment variable.

        Raises:
            UserError: if one makes no sense.
        """
        default, env = cls(), os.environ.get
        agent = env("DALLE_CRAWL_AGENT") or default.agent
        # RFC 9309, section 2.2.1: the characters that robots.txt can address.
        if not re.fullmatch(r"[A-Za-z_-]*[A-Za-z][A-Za-z_-]*", agent):
            raise UserError(
                f"DALLE_CRAWL_AGENT is {agent!r}; set it to letters, '-' and '_' without a version"
            )
        prefix, least = "DALLE_CRAWL_", 1
        return cls(
            contact=env("DALLE_CRAWL_CONTACT") or "",
            agent=agent,
            takedown=location(f"{prefix}TAKEDOWN"),
            concurrency=whole_number(f"{prefix}CONCURRENCY", default.concurrency, least),
            domain_connections=whole_number(
                f"{prefix}DOMAIN_CONNECTIONS", default.domain_connections, least
            ),
            domain_delay=decimal(
                f"{prefix}DOMAIN_DELAY", default.domain_delay, "number of seconds"
            ),
            domain_limits=_checked_limits(env("DALLE_CRAWL_DOMAIN_LIMITS") or ""),
            processes=whole_number(f"{prefix}PROCESSES", default.processes, least),
            inbox=location(f"{prefix}INBOX").rstrip("/"),
        )

    def limits(self) -> list[tuple[str, int, float]]:
        """Domain, connections and seconds of each exception."""
        words = (word.partition("=") for word in self.domain_limits.split())
        pairs = ((domain, *limit.partition("/")[::2]) for domain, _, limit in words)
        return [(domain, int(most), float(delay)) for domain, most, delay in pairs]


class Settings(dg.ConfigurableResource):
    """Settings of one deployment; every field has an environment variable.

    Attributes:
        data_root: directory or fsspec URL of all datasets (DALLE_DATA_ROOT).
        recipe: name of the recipe: demo, small, cc3m_1b, paper_12b (DALLE_RECIPE).
        reference_images: directory of the images that must not be trained on, MS-COCO or its
            stand-in (DALLE_REFERENCE_IMAGES).
        processes: training processes (DALLE_PROCESSES): one per GPU, or one per core; two where
            it is not said, which suits the demonstration.
        crawl: how the web is crawled.
        retrain: when and how the transformer is trained again, and what is promoted.
        max_updates: ends every training after so many updates; 0 leaves it to the recipe
            (DALLE_MAX_UPDATES).
        clip_checkpoint: open_clip checkpoint, a directory or a file of weights, that takes the
            place of our own contrastive model (DALLE_CLIP_CHECKPOINT).
        curate_config: JSON file whose fields of `CurateConfig` go over the recipe's: rules and
            thresholds of the curation (DALLE_CURATE_CONFIG).
        dedupe_config: the same of `DedupeConfig`, whose mode and radii say what a copy of a
            reference is and what becomes of it (DALLE_DEDUPE_CONFIG).
        beam_runner: name of the Beam runner of all data stages (DALLE_BEAM_RUNNER).
        beam_options: its options (DALLE_BEAM_OPTIONS, separated as in a shell).
        training_options: how the transformer's training computes, for instance
            `--shard=machine --recompute` (DALLE_TRAINING_OPTIONS).
        evaluation_options: more words for `training.evaluate`, for instance `--coco /data/coco`;
            they count more than the asset's own (DALLE_EVALUATION_OPTIONS).
        dataset_title: of the published card and manifest (DALLE_DATASET_TITLE); this and the next
            two are the recipe's where they are empty.
        dataset_description: what the data is (DALLE_DATASET_DESCRIPTION).
        dataset_licences: terms of captions and images, and credits (DALLE_DATASET_LICENCES).
    """

    data_root: str
    recipe: str
    reference_images: str
    processes: int
    crawl: CrawlSettings = CrawlSettings()
    retrain: RetrainSettings = RetrainSettings()
    max_updates: int = 0
    clip_checkpoint: str = ""
    curate_config: str = ""
    dedupe_config: str = ""
    beam_runner: str = Engine().runner
    beam_options: str = ""
    training_options: str = ""
    evaluation_options: str = ""
    dataset_title: str = ""
    dataset_description: str = ""
    dataset_licences: str = ""

    @classmethod
    def from_environment(cls) -> "Settings":
        """The demonstration's settings, each overridden by its environment variable.

        Raises:
            UserError: if one makes no sense.
        """
        demo = demo_directory()
        env = os.environ.get
        return cls(
            data_root=location("DALLE_DATA_ROOT", str(demo / "data")),
            recipe=env("DALLE_RECIPE") or "demo",
            reference_images=location("DALLE_REFERENCE_IMAGES", str(demo / "web" / "reference")),
            processes=whole_number("DALLE_PROCESSES", _DEFAULT_PROCESSES, least=1),
            crawl=CrawlSettings.from_environment(),
            retrain=RetrainSettings.from_environment(),
            max_updates=whole_number("DALLE_MAX_UPDATES", 0),
            clip_checkpoint=location("DALLE_CLIP_CHECKPOINT"),
            curate_config=location("DALLE_CURATE_CONFIG"),
            dedupe_config=location("DALLE_DEDUPE_CONFIG"),
            beam_runner=env("DALLE_BEAM_RUNNER") or Engine().runner,
            beam_options=_options("DALLE_BEAM_OPTIONS"),
            training_options=_options("DALLE_TRAINING_OPTIONS"),
            evaluation_options=_words("DALLE_EVALUATION_OPTIONS"),
            dataset_title=env("DALLE_DATASET_TITLE") or "",
            dataset_description=env("DALLE_DATASET_DESCRIPTION") or "",
            dataset_licences=env("DALLE_DATASET_LICENCES") or "",
        )

    @property
    def layout(self) -> Layout:
        """Where every dataset lives."""
        return Layout(self.data_root.rstrip("/"))

    @property
    def engine(self) -> Engine:
        """The Beam engine of the data stages."""
        return Engine(self.beam_runner, tuple(shlex.split(self.beam_options)))

    def training_recipe(self) -> "Recipe":
        """The recipe's numbers.

        Raises:
            UserError: if there is no recipe of that name.
        """
        from training.recipes import RECIPES

        if self.recipe not in RECIPES:
            raise UserError(
                f"there is no recipe {self.recipe!r}; set DALLE_RECIPE to one of "
                f"{', '.join(RECIPES)}"
            )
        return RECIPES[self.recipe]()

    def stages(self) -> StageConfigs:
        """Configuration of every data stage under this recipe."""
        stages = stage_configs(
            self.training_recipe(), self.engine, self.curate_config, self.dedupe_config
        )
        card = replace(
            stages.publish,
            title=self.dataset_title or stages.publish.title,
            description=self.dataset_description or stages.publish.description,
            licences=self.dataset_licences or stages.publish.licences,
        )
        return replace(stages, publish=card)

    def transformer_options(self) -> tuple[str, ...]:
        """Words for the transformer's training program."""
        return tuple(shlex.split(self.training_options))

    def evaluating_options(self) -> tuple[str, ...]:
        """Words for the evaluation program."""
        return tuple(shlex.split(self.evaluation_options))

    def least_perplexity(self) -> float:
        """Perplexity of the codes below which the codebook has collapsed."""
        # A run cut short has not spread over its codebook yet; one code for all is a collapse
        # at any length.
        return 1.0 + 1e-6 if self.max_updates else self.training_recipe().least_perplexity

    def updates(self) -> tuple[str, ...]:
        """`--updates N` where the recipe's number is overridden."""
        return ("--updates", str(self.max_updates)) if self.max_updates else ()


def _checked_limits(text: str) -> str:
    wrong = next((word for word in text.split() if not _DOMAIN_LIMIT.fullmatch(word)), None)
    if wrong is not None:
        raise UserError(
            f"DALLE_CRAWL_DOMAIN_LIMITS holds {wrong!r}; write DOMAIN=CONNECTIONS/SECONDS, for "
            "example cdn.example=16/0.05"
        )
    return text


def _words(variable: str) -> str:
    text = os.environ.get(variable) or ""
    try:
        shlex.split(text)
    except ValueError as error:
        raise UserError(f"{variable} is {text!r}: {error}; close its quotes") from error
    return text


def _options(variable: str) -> str:
    text = _words(variable)
    wrong = next((word for word in shlex.split(text) if not word.startswith("--")), None)
    if wrong is not None:
        raise UserError(f"{variable} holds {wrong!r}; write every option as --name=value")
    return text
