"""The four sizes. A recipe is a function that returns a complete configuration."""

import dataclasses
from collections.abc import Callable

from training.config import (
    AdamWConfig,
    ContrastiveConfig,
    ContrastiveTraining,
    Cosine,
    DALLETraining,
    DVAEConfig,
    DVAETraining,
    Recipe,
    SplitConfig,
    TextConfig,
    TowerConfig,
    TransformerConfig,
)
from training.errors import InputError

# Jobs and skin tones that the demo's models know, but never together.
_HELD_OUT_JOBS = (
    *("firefighter", "cook", "astronaut", "farmer", "judge", "pilot", "singer", "teacher"),
    *("artist", "scientist", "mechanic", "police officer", "health worker", "student"),
)
_HELD_OUT_TONES = ("dark", "medium", "light", "medium-dark", "medium-light")


def _held_out_combinations() -> tuple[str, ...]:
    return tuple(
        rf"\b{job}: {_HELD_OUT_TONES[i % len(_HELD_OUT_TONES)]} skin tone"
        for i, job in enumerate(_HELD_OUT_JOBS)
    )


def demo() -> Recipe:
    """Thousands of emoji on two CPU cores, in minutes."""
    updates = 2400
    dvae = DVAEConfig(
        image_size=40, hidden=32, blocks_per_group=1, groups=3, vocabulary=512, decoder_init=64
    )
    return Recipe(
        name="demo",
        text=TextConfig(vocabulary=2048, length=36),
        dvae=dvae,
        dvae_training=DVAETraining(
            updates=updates,
            batch=16,
            step_size=Cosine(5e-3, 2e-5, updates),
            # A code stands for 48 numbers here and for 192 in the paper, whose 6.6 is shared out
            # accordingly.
            kl_weight=Cosine(0.0, 6.6 / 4, updates // 50),
            temperature=Cosine(0.5, 1 / 8, updates * 4 // 5),
            resize=(1.0, 1.0),
            codebook_warmup=True,
            encoder_rate=0.1,
            clip=20.0,
            least_log_scale=-1.0,
            checkpoint_seconds=60.0,
        ),
        transformer=TransformerConfig(depth=6, heads=4, head_width=32),
        dalle_training=DALLETraining(
            updates=2100,
            batch=16,
            step_size=3e-3,
            warmup=100,
            decay="cosine",
            checkpoint_seconds=60.0,
        ),
        contrastive=ContrastiveConfig(
            embedding=64,
            image_size=40,
            patch=8,
            image=TowerConfig(width=96, layers=4, heads=3),
            text=TowerConfig(width=64, layers=2, heads=2),
        ),
        contrastive_training=ContrastiveTraining(
            updates=600,
            batch=128,
            step_size=2e-3,
            warmup=50,
            adamw=AdamWConfig(0.9, 0.98, 0.1, 1e-6),
            clip=1.0,
            checkpoint_seconds=60.0,
        ),
        split=SplitConfig(validation=0.02, held_out=_held_out_combinations()),
    )


def demo_paper() -> Recipe:
    """The demonstration with the paper's own stage one: 64 pixels, random codes, beta 6.6.

    A code stands for 8x8x3 = 192 numbers, as in the paper. Schedules keep their ends and their
    form; a run of 1,500 updates needs most of them for the temperature. See docs/dvae.md.
    """
    base, updates = demo(), 1500
    return dataclasses.replace(
        base,
        name="demo_paper",
        dvae=DVAEConfig(image_size=64, hidden=16, vocabulary=512, decoder_init=128),
        dvae_training=DVAETraining(
            updates=updates,
            batch=16,
            # The paper's step size times the ratio of widths, 256 / 16, rounded up.
            step_size=Cosine(2e-3, 2.5e-5, updates),
            kl_weight=Cosine(0.0, 6.6, updates // 600),
            temperature=Cosine(1.0, 1 / 16, updates * 3 // 4),
            least_log_scale=0.0,
            validate_every=250,
            checkpoint_seconds=60.0,
        ),
    )


def small() -> Recipe:
    """128-pixel pictures on one small GPU, in hours."""
    updates = 200_000
    return Recipe(
        name="small",
        text=TextConfig(vocabulary=8192, length=64),
        dvae=DVAEConfig(image_size=128, hidden=64, vocabulary=2048),
        dvae_training=DVAETraining(
            updates=updates,
            batch=128,
            step_size=Cosine(3e-4, 3e-6, updates),
            kl_weight=Cosine(0.0, 6.6, updates // 40),
            temperature=Cosine(1.0, 1 / 16, updates // 4),
        ),
        transformer=TransformerConfig(depth=12, heads=8),
        dalle_training=DALLETraining(updates=100_000, batch=256, warmup=2000),
        contrastive=ContrastiveConfig(
            embedding=256,
            image_size=128,
            patch=16,
            image=TowerConfig(width=384, layers=12, heads=6),
            text=TowerConfig(width=256, layers=6, heads=4),
        ),
        contrastive_training=ContrastiveTraining(updates=50_000, batch=1024, step_size=1e-3),
        split=SplitConfig(validation=0.01),
    )


def cc3m_1b() -> Recipe:
    """The paper's preliminary scale: 1.2 B parameters on Conceptual Captions (section 2.3)."""
    return _paper_like(
        "cc3m_1b",
        TransformerConfig(depth=24, heads=32),
        DALLETraining(updates=100_000, batch=512),
        ContrastiveTraining(updates=26_000, batch=4096),
    )


def paper_12b() -> Recipe:
    """The paper's model (appendix B.1)."""
    return _paper_like(
        "paper_12b",
        TransformerConfig(depth=64, heads=62),
        DALLETraining(updates=430_000, batch=1024),
        # CLIP's 32 epochs (arXiv 2103.00020, table 18), here of 250 M pairs.
        ContrastiveTraining(updates=244_000, batch=32_768),
    )


def _paper_like(
    name: str,
    transformer: TransformerConfig,
    training: DALLETraining,
    contrastive: ContrastiveTraining,
) -> Recipe:
    return Recipe(
        name=name,
        text=TextConfig(vocabulary=16_384, length=256),
        dvae=DVAEConfig(),
        dvae_training=DVAETraining(
            updates=3_000_000,
            batch=512,
            step_size=Cosine(1e-4, 1.25e-6, 1_200_000),
            kl_weight=Cosine(0.0, 6.6, 5_000),
            temperature=Cosine(1.0, 1 / 16, 150_000),
        ),
        transformer=transformer,
        dalle_training=training,
        # CLIP's ViT-B/32 (arXiv 2103.00020, table 19) at this paper's 256 pixels.
        contrastive=ContrastiveConfig(
            embedding=512,
            image_size=256,
            patch=32,
            image=TowerConfig(width=768, layers=12, heads=12),
            text=TowerConfig(width=512, layers=12, heads=8),
        ),
        contrastive_training=ContrastiveTraining(updates=390_000, batch=32_768),
        # About 606,000 of 250 M images were held out (section 2.2).
        split=SplitConfig(validation=606_000 / 250_000_000),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "small": small,
    "cc3m_1b": cc3m_1b,
    "paper_12b": paper_12b,
    "demo_paper": demo_paper,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: if there is none, naming those that exist.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()
