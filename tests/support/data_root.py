"""A data root with a finished tiny dVAE and transformer, and what spoils them."""

import json
import shutil
from pathlib import Path

from tiny_training import Finished

from pipelines.layout import Layout


def make(root: Path, finished: Finished) -> Layout:
    """A root of its own with copies of the published versions and of both models."""
    layout = Layout(str(root))
    shutil.copytree(finished.layout.token_dataset, layout.token_dataset)
    for name, model in (("dvae", finished.dvae), ("dalle", finished.dalle)):
        shutil.copytree(model / "final", Path(layout.model(name)) / "final")
    return layout


def spoil(layout: Layout, by: float) -> None:
    """Add noise to the transformer's weights; infinite noise makes them not finite."""
    import torch
    from safetensors.torch import load_file, save_file

    path = Path(layout.model("dalle")) / "final" / "model.safetensors"
    torch.manual_seed(0)
    weights = {k: w + by * torch.randn_like(w) for k, w in load_file(path).items()}
    save_file(weights, path)


def say(layout: Layout, **facts: object) -> None:
    """Change what the transformer's summary says; another summary is another version."""
    path = Path(layout.model("dalle")) / "final" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
