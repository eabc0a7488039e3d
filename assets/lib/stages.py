"""From the name of a recipe to the typed configuration of every data stage."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from assets.lib.home import UserError
from pipelines import storage
from pipelines.config_files import Config, configured
from pipelines.runners import Engine

if TYPE_CHECKING:
    from assets.lib.settings import CrawlSettings
    from pipelines.crawl.batches import CrawlBatch
    from pipelines.crawl.config import CandidatesConfig, FetchConfig
    from pipelines.curate.config import CurateConfig
    from pipelines.dedupe.config import DedupeConfig
    from pipelines.encode.config import BpeConfig, EncodeConfig
    from pipelines.publish.config import PublishConfig
    from training.config import Recipe

DEMO = "demo"
_LOOPBACK_NETWORK = "127.0.0.0/8"
_LOOPBACK_CONTACT = "operator@localhost"
_LOOPBACK_MAX_BYTES = 1_000_000
# A fixed crop needs a little more than the model's side: arXiv 2102.12092, Listing 1 resizes the
# shorter side to 9/8 of it before it crops at random.
_SIDE_MARGIN = 9 / 8
_DEMO_LICENCE = "Twemoji artwork by Twitter, Inc. and other contributors, CC-BY 4.0."


@dataclass(frozen=True)
class StageConfigs:
    """Configuration of the stages behind the crawl, and the Beam engine of all of them."""

    curate: "CurateConfig"
    dedupe: "DedupeConfig"
    bpe: "BpeConfig"
    encode: "EncodeConfig"
    publish: "PublishConfig"
    engine: Engine


def stage_configs(
    recipe: "Recipe", engine: Engine, curate_config: str = "", dedupe_config: str = ""
) -> StageConfigs:
    """The stages' defaults, bent to the recipe's image and text sizes, then to two files.

    The demonstration's pictures are 72 pixels wide and small files, so its rules ask for less.

    Args:
        recipe: of the trainings.
        engine: the Beam engine.
        curate_config: path or URL of a JSON object of `CurateConfig`'s fields; empty for none.
        dedupe_config: the same of `DedupeConfig`'s.

    Raises:
        UserError: if a file is missing or makes no sense, naming it.
    """
    from pipelines.curate.config import CurateConfig
    from pipelines.dedupe.config import DedupeConfig
    from pipelines.encode.config import BpeConfig, EncodeConfig
    from pipelines.publish.config import PublishConfig

    if recipe.name == DEMO:
        # Stored at the model's own side: its one crop then needs no second resampling.
        side = recipe.dvae.image_size
        curate = CurateConfig(min_side=32, min_bytes=200, short_side=side, encoding="png")
        publish = PublishConfig(title="Emoji tokens", licences=_DEMO_LICENCE)
        # Two shades of a skin tone are nearly one picture, and two captions to be learnt.
        dedupe = DedupeConfig(near_repeats=False)
    else:
        side = round(recipe.dvae.image_size * _SIDE_MARGIN)
        curate, publish, dedupe = CurateConfig(short_side=side), PublishConfig(), DedupeConfig()
    return StageConfigs(
        curate=_with_file(curate, "DALLE_CURATE_CONFIG", curate_config),
        dedupe=_with_file(dedupe, "DALLE_DEDUPE_CONFIG", dedupe_config),
        bpe=BpeConfig(vocabulary=recipe.text.vocabulary, max_length=recipe.text.length),
        encode=EncodeConfig(),
        publish=publish,
        engine=engine,
    )


def _with_file(recipe: Config, variable: str, path: str) -> Config:
    try:
        return configured(recipe, path, {})
    except (ValueError, OSError) as error:
        raise UserError(f"{variable}: {error}") from error


def crawl_configs(
    batch: "CrawlBatch", crawl: "CrawlSettings"
) -> tuple["CandidatesConfig", "FetchConfig"]:
    """How a batch is crawled.

    A batch whose every source is a web server on this machine (the demonstration's) may fetch
    from it, without a delay and with all connections at once; any other batch may not reach
    private networks, and must say whom a site's owner can write to.

    Raises:
        UserError: if that is missing, or the takedown list is not where the settings say.
    """
    from pipelines.crawl.config import CandidatesConfig, DomainLimit, FetchConfig, HttpConfig

    takedown = takedown_list(crawl)
    http = HttpConfig(
        contact=crawl.contact or _LOOPBACK_CONTACT,
        agent=crawl.agent,
        domain_connections=crawl.domain_connections,
        domain_delay_s=crawl.domain_delay,
        domain_limits=tuple(DomainLimit(*limit) for limit in crawl.limits()),
        processes=crawl.processes,
    )
    paths = [path for source in batch.sources for path in source.paths]
    if all(_is_loopback(path) for path in paths):
        http = replace(
            http,
            max_bytes=_LOOPBACK_MAX_BYTES,
            domain_connections=crawl.concurrency,
            domain_delay_s=0.0,
            allow_networks=(_LOOPBACK_NETWORK,),
        )
    elif not crawl.contact:
        raise UserError(
            "the crawler must say whom a site's owner can write to; set DALLE_CRAWL_CONTACT to "
            "an e-mail address or URL of yours"
        )
    fetch = FetchConfig(http, concurrency=crawl.concurrency, takedown=takedown)
    return CandidatesConfig(http, takedown=takedown), fetch


def takedown_list(crawl: "CrawlSettings") -> str | None:
    """Where the takedown list lies; None if nobody objected.

    Raises:
        UserError: if it is not where the settings say.
    """
    if crawl.takedown and not storage.exists(crawl.takedown):
        raise UserError(
            f"there is no takedown list at {crawl.takedown!r}; correct DALLE_CRAWL_TAKEDOWN, or "
            "unset it if nobody objected"
        )
    return crawl.takedown or None


def _is_loopback(path: str) -> bool:
    parts = urlsplit(path)
    return parts.scheme in ("http", "https") and parts.hostname in ("127.0.0.1", "localhost")
