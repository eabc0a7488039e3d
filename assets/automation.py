"""Jobs. One job never mixes batches with training, which has none.

A job over both would train again for every batch.
"""

import dagster as dg

from assets.crawl import fetched_pairs, image_text_candidates
from assets.curate import curated_pairs
from assets.dedupe import coco_hash_index, deduped_pairs
from assets.encode import bpe_tokenizer, token_grids
from assets.lib.gpu_pod import gpu_pod
from assets.lib.partitions import crawl_batches
from assets.publish import token_dataset
from assets.train import contrastive, dalle, dvae
from assets.validate import evaluation, model_comparison, promoted_model, samples

_COLLECTED = (image_text_candidates, fetched_pairs, curated_pairs, deduped_pairs)

build_reference = dg.define_asset_job(
    "build_reference",
    dg.AssetSelection.assets(coco_hash_index),
    description="Hash the reference images; once, and again when they change.",
)
collect_pairs = dg.define_asset_job(
    "collect_pairs",
    dg.AssetSelection.assets(*_COLLECTED),
    partitions_def=crawl_batches,
    description="One crawl batch, from its sources to pairs without copies.",
)
train_dvae = dg.define_asset_job(
    "train_dvae",
    dg.AssetSelection.assets(bpe_tokenizer, dvae),
    tags={"dalle/model": "dvae"} | gpu_pod(),
    description="The tokenizer and the dVAE, on every finished batch.",
)
encode_pairs = dg.define_asset_job(
    "encode_pairs",
    dg.AssetSelection.assets(token_grids),
    partitions_def=crawl_batches,
    tags=gpu_pod(),
    description="One crawl batch to tokens, with the current tokenizer and dVAE.",
)
build_dataset = dg.define_asset_job(
    "build_dataset",
    dg.AssetSelection.assets(*_COLLECTED, token_grids),
    partitions_def=crawl_batches,
    tags=gpu_pod(),
    description="A further crawl batch, all the way to tokens; then publish_dataset.",
)
publish_dataset = dg.define_asset_job(
    "publish_dataset",
    dg.AssetSelection.assets(token_dataset),
    description="A new immutable version of the token dataset, over every finished batch.",
)
train_dalle = dg.define_asset_job(
    "train_dalle",
    dg.AssetSelection.assets(dalle, samples, evaluation),
    tags={"dalle/model": "dalle"} | gpu_pod(),
    description="The transformer on the current dataset, then samples and evaluation.",
)
retrain = dg.define_asset_job(
    "retrain",
    dg.AssetSelection.assets(dalle, samples, evaluation, model_comparison, promoted_model),
    # As train_dalle: the queue lets one run of a model go on at a time.
    tags={"dalle/model": "dalle"} | gpu_pod(),
    description="As train_dalle; then the model is promoted, if it passes.",
)
train_contrastive = dg.define_asset_job(
    "train_contrastive",
    dg.AssetSelection.assets(contrastive),
    tags={"dalle/model": "contrastive"} | gpu_pod(),
    description="The image-text model that reranks samples, on every finished batch.",
)

JOBS = [
    build_reference,
    collect_pairs,
    train_dvae,
    encode_pairs,
    build_dataset,
    publish_dataset,
    train_dalle,
    retrain,
    train_contrastive,
]
# Jobs that ask servers for something.
CRAWLING = (collect_pairs.name, build_dataset.name)
