"""The one resource: where the data is, which recipe, and how many training processes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.lib.home import UserError, whole_number
from assets.lib.stages import StageConfigs, stage_configs
from pipelines.layout import Layout

if TYPE_CHECKING:
    from training.config import Recipe

_DEFAULT_PROCESSES = 2
REPOSITORY = Path(__file__).resolve().parents[2]


def demo_directory() -> Path:
    """Where the demonstration keeps its web, its data and its results (DALLE_DEMO_DIRECTORY)."""
    return Path(os.environ.get("DALLE_DEMO_DIRECTORY") or REPOSITORY / "demo").absolute()


class Settings(dg.ConfigurableResource):
    """Settings of one deployment; every field has an environment variable.

    Attributes:
        data_root: directory or fsspec URL of all datasets (DALLE_DATA_ROOT).
        recipe: name of the recipe: demo, small, cc3m_1b, paper_12b (DALLE_RECIPE).
        reference_images: directory of the images that must not be trained on, MS-COCO or its
            stand-in (DALLE_REFERENCE_IMAGES).
        processes: training processes (DALLE_PROCESSES): one per GPU, or one per core; two where
            it is not said, which suits the demonstration.
        crawl_contact: URL or e-mail address for owners of crawled sites (DALLE_CRAWL_CONTACT).
        max_updates: ends every training after so many updates; 0 leaves it to the recipe
            (DALLE_MAX_UPDATES).
    """

    data_root: str
    recipe: str
    reference_images: str
    processes: int
    crawl_contact: str = ""
    max_updates: int = 0

    @classmethod
    def from_environment(cls) -> "Settings":
        """The demonstration's settings, each overridden by its environment variable."""
        demo = demo_directory()
        env = os.environ.get
        return cls(
            data_root=env("DALLE_DATA_ROOT") or str(demo / "data"),
            recipe=env("DALLE_RECIPE") or "demo",
            reference_images=env("DALLE_REFERENCE_IMAGES") or str(demo / "web" / "reference"),
            processes=whole_number("DALLE_PROCESSES", _DEFAULT_PROCESSES, least=1),
            crawl_contact=env("DALLE_CRAWL_CONTACT") or "",
            max_updates=whole_number("DALLE_MAX_UPDATES", 0),
        )

    @property
    def layout(self) -> Layout:
        """Where every dataset lives."""
        return Layout(self.data_root.rstrip("/"))

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
        return stage_configs(self.training_recipe())

    def updates(self) -> tuple[str, ...]:
        """`--updates N` where the recipe's number is overridden."""
        return ("--updates", str(self.max_updates)) if self.max_updates else ()
