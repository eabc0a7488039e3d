"""The four sizes. A recipe is a function that returns a complete configuration."""

from collections.abc import Callable

from training.config import (
    Cosine,
    DALLETraining,
    DVAEConfig,
    DVAETraining,
    Recipe,
    SplitConfig,
    TextConfig,
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
        split=SplitConfig(validation=0.02, held_out=_held_out_combinations()),
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
        split=SplitConfig(validation=0.01),
    )


def cc3m_1b() -> Recipe:
    """The paper's preliminary scale: 1.2 B parameters on Conceptual Captions (section 2.3)."""
    return _paper_like("cc3m_1b", TransformerConfig(depth=24, heads=32), updates=100_000, batch=512)


def paper_12b() -> Recipe:
    """The paper's model (appendix B.1)."""
    config = TransformerConfig(depth=64, heads=62)
    return _paper_like("paper_12b", config, updates=430_000, batch=1024)


def _paper_like(name: str, transformer: TransformerConfig, updates: int, batch: int) -> Recipe:
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
        dalle_training=DALLETraining(updates=updates, batch=batch),
        # About 606,000 of 250 M images were held out (section 2.2).
        split=SplitConfig(validation=606_000 / 250_000_000),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "small": small,
    "cc3m_1b": cc3m_1b,
    "paper_12b": paper_12b,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: if there is none, naming those that exist.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()
