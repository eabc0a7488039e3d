"""A recipe that trains in seconds, its data, and a program that trains it in another process."""

import dataclasses
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from token_corpus import write_batch

from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout
from pipelines.publish.config import PublishConfig
from pipelines.publish.dataset import publish
from pipelines.runners import Engine
from training import recipes
from training.config import (
    ContrastiveConfig,
    Cosine,
    DVAEConfig,
    Recipe,
    SplitConfig,
    TextConfig,
    TowerConfig,
    TransformerConfig,
)
from training.image_tokenizer import DVAEImageTokenizer, image_tokenizer_info, load_image_tokenizer
from training.reporting import read_metrics

NAME = "tiny"
# Runs a module with arguments; exit status and stderr.
Runner = Callable[..., tuple[int, str]]
ROOT = Path(__file__).parents[2]
HELD_OUT = "red heart"


@dataclass(frozen=True)
class Finished:
    """Directories of a finished run of both stages; tests do not write to them."""

    layout: Layout
    pairs: Path
    dvae: Path
    dataset: str
    dalle: Path


def tiny() -> Recipe:
    """The demo's recipe with everything that costs time made small."""
    demo = recipes.demo()
    every_update = {"checkpoint_seconds": 0.0, "report_every": 1}
    return dataclasses.replace(
        demo,
        name=NAME,
        text=TextConfig(vocabulary=320, length=40),
        dvae=DVAEConfig(
            image_size=16, hidden=8, blocks_per_group=1, groups=3, vocabulary=32, decoder_init=8
        ),
        dvae_training=dataclasses.replace(
            demo.dvae_training,
            updates=60,
            batch=4,
            **every_update,
            # Its own, so that tuning the demo does not decide whether the tests' dVAE learns.
            step_size=Cosine(3e-3, 3e-5, 60),
            kl_weight=Cosine(0.0, 1.0, 40),
            temperature=Cosine(1, 0.5, 60),
            least_log_scale=-20.0,
        ),
        transformer=TransformerConfig(depth=4, heads=2, head_width=8, convolution_kernel=3),
        dalle_training=dataclasses.replace(
            demo.dalle_training, updates=60, batch=4, warmup=5, **every_update
        ),
        contrastive=ContrastiveConfig(
            embedding=16,
            image_size=16,
            patch=8,
            image=TowerConfig(width=32, layers=2, heads=2),
            text=TowerConfig(width=32, layers=1, heads=2),
        ),
        contrastive_training=dataclasses.replace(
            demo.contrastive_training, updates=300, batch=16, warmup=5, **every_update
        ),
        split=SplitConfig(validation=0.2, held_out=(HELD_OUT,)),
    )


def write_pairs(layout: Layout, rows: int = 60) -> Path:
    """A batch of `deduped_pairs`; its directory."""
    write_batch(layout, "a", range(rows))
    return Path(layout.dataset("deduped_pairs", "a"))


def publish_tokens(layout: Layout, dvae: Path) -> str:
    """Encode batch `a` with a finished dVAE and publish it; the version's directory."""
    recipe = tiny()
    config = BpeConfig(vocabulary=recipe.text.vocabulary, max_length=recipe.text.length)
    info = image_tokenizer_info(str(dvae))

    def load() -> DVAEImageTokenizer:
        return load_image_tokenizer(str(dvae))

    bpe.train_tokenizer(["a"], layout, config)
    encode_pairs(
        "a", layout, config, EncodeConfig(), load, info.sha256, info.grid, Engine(),
        image_size=info.image_size, image_vocabulary=info.vocabulary,
    )  # fmt: skip
    return publish(["a"], layout, PublishConfig(row_group_rows=16)).directory


def environment() -> dict[str, str]:
    """Of a training program: this project, on one core."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(module: str, *arguments: object, tiny_recipe: bool = True) -> subprocess.Popen[str]:
    """Start a training program; `tiny_recipe` makes the name `tiny` known to it."""
    program = [str(Path(__file__)), module] if tiny_recipe else ["-m", module]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_update(process: subprocess.Popen[str], output: Path, update: int) -> None:
    """Wait until the program has reported `update`."""
    until = time.monotonic() + 60
    while not any(line["step"] >= update for line in read_metrics(output)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the program makes no progress"
        time.sleep(0.02)


if __name__ == "__main__":
    recipes.RECIPES[NAME] = tiny
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
