"""Where every dataset lives under the data root. Paths only: nothing here touches a disk."""

from dataclasses import dataclass


def join(root: str, *parts: str) -> str:
    """Join path parts with `/`, which every fsspec filesystem takes."""
    return "/".join((root.rstrip("/"), *parts))


@dataclass(frozen=True)
class Layout:
    """Paths below one data root.

    Attributes:
        root: local directory or any fsspec URL, without a trailing slash.
    """

    root: str

    def crawl_batch(self, batch: str) -> str:
        """JSON file that names the sources of one crawl batch."""
        return join(self.root, "crawl_batches", f"{batch}.json")

    def dataset(self, name: str, batch: str | None = None) -> str:
        """Directory of a dataset, or of one batch of a partitioned one."""
        base = join(self.root, name)
        return base if batch is None else join(base, f"batch={batch}")

    def rejects(self, stage: str, batch: str) -> str:
        """Directory of the rows that `stage` dropped from `batch`."""
        return join(self.root, "rejects", f"stage={stage}", f"batch={batch}")

    @property
    def tokenizer(self) -> str:
        """Directory of the byte-pair tokenizer (`tokenizer.json` inside)."""
        return join(self.root, "bpe_tokenizer")

    @property
    def models(self) -> str:
        """Directory of all models."""
        return join(self.root, "models")

    def model(self, name: str) -> str:
        """Directory of one model: its checkpoints, metrics, pictures and `final/`."""
        return join(self.models, name)

    @property
    def promoted(self) -> str:
        """Directory of the promoted versions of the models, and of the log of promotions."""
        return join(self.models, "promoted")

    @property
    def token_dataset(self) -> str:
        """Directory that holds the published versions and the `CURRENT` pointer."""
        return join(self.root, "token_dataset")

    @property
    def takedowns(self) -> str:
        """Directory of the takedown lists that were applied, each named by its hash."""
        return join(self.root, "takedowns")

    @property
    def samples(self) -> str:
        """Directory of the sampled pictures."""
        return join(self.root, "samples")

    @property
    def evaluation(self) -> str:
        """Directory of the evaluation's figures and plots."""
        return join(self.root, "evaluation")
