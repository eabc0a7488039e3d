"""What the demonstration launches, and what of it is still to be done."""

from dataclasses import dataclass

import dagster as dg

from assets.lib.models import final
from assets.lib.settings import Settings
from pipelines import ledger, storage
from pipelines.layout import Layout, join
from pipelines.publish.manifest import CURRENT

BATCH = "demo"
SETTINGS_TAG = "dalle/settings"


@dataclass(frozen=True)
class Launch:
    """One `dagster job launch`.

    Attributes:
        job: its name.
        assets: what it materialises, in order.
        partitioned: whether it runs for one crawl batch.
    """

    job: str
    assets: tuple[str, ...]
    partitioned: bool = False

    def tags(self, settings_hash: str) -> dict[str, str]:
        """Run tags; a failed run must not come back after the demonstration has ended."""
        tags = {SETTINGS_TAG: settings_hash, "dagster/max_retries": "0"}
        return tags | ({"dagster/partition": BATCH} if self.partitioned else {})


PLAN = (
    Launch("build_reference", ("coco_hash_index",)),
    Launch(
        "collect_pairs",
        ("image_text_candidates", "fetched_pairs", "curated_pairs", "deduped_pairs"),
        partitioned=True,
    ),
    Launch("train_dvae", ("bpe_tokenizer", "dvae")),
    Launch("encode_pairs", ("token_grids",), partitioned=True),
    Launch("publish_dataset", ("token_dataset",)),
    Launch("train_contrastive", ("contrastive",)),
    Launch("train_dalle", ("dalle", "samples", "evaluation")),
)
CRAWLING = ("build_reference", "collect_pairs")


def settings_hash(settings: Settings) -> str:
    """Hash of everything that a change of makes the results out of date."""
    recipe, stages = settings.training_recipe(), settings.stages()
    return ledger.fingerprint("1", [repr(recipe), repr(stages), settings.max_updates], [])


def remaining(
    instance: dg.DagsterInstance, definitions: dg.Definitions, settings: Settings
) -> list[Launch]:
    """The launches whose results are not all there and current, and all that come after one.

    A launch is current if each of its assets has its success marker, was last materialised by
    the present code version under the present settings, and no asset before it is newer.
    """
    wanted = settings_hash(settings)
    graph = definitions.resolve_asset_graph()
    before = 0.0
    for index, launch in enumerate(PLAN):
        times = []
        for asset in launch.assets:
            key = dg.AssetKey(asset)
            event = _latest(instance, key, launch.partitioned)
            if event is None or not storage.exists(marker(settings.layout, asset)):
                return list(PLAN[index:])
            run = instance.get_run_by_id(event.run_id)
            materialization = event.asset_materialization
            tags = (materialization.tags if materialization else None) or {}
            current = (
                tags.get("dagster/code_version") == graph.get(key).code_version
                and run is not None
                and run.tags.get(SETTINGS_TAG) == wanted
                and event.timestamp >= before
            )
            if not current:
                return list(PLAN[index:])
            times.append(event.timestamp)
        before = max(times)
    return []


def marker(layout: Layout, asset: str) -> str:
    """The file that an asset's writer writes last."""
    batch = BATCH if any(launch.partitioned and asset in launch.assets for launch in PLAN) else None
    special = {
        "bpe_tokenizer": join(layout.tokenizer, ledger.SUCCESS),
        "dvae": final(layout.model("dvae"), ledger.SUCCESS),
        "token_dataset": join(layout.token_dataset, CURRENT),
        "contrastive": final(layout.model("contrastive"), ledger.SUCCESS),
        "dalle": final(layout.model("dalle"), ledger.SUCCESS),
        "samples": join(layout.samples, "samples.json"),
        "evaluation": join(layout.evaluation, "evaluation.json"),
    }
    return special.get(asset) or join(layout.dataset(asset, batch), ledger.SUCCESS)


def _latest(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitioned: bool
) -> dg.EventLogRecord | None:
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[BATCH] if partitioned else None),
        limit=1,
    )
    return found.records[0] if found.records else None
