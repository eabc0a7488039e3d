"""The first losses of the `demo` recipe on the CPU: `python tests/support/golden_losses.py`.

Run as a program it writes tests/golden/demo_losses.json anew and prints what changed. A change
that moves these losses says so where it is described.
"""

import json
import tempfile
from pathlib import Path

from token_corpus import MeanColour, write_batch

from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout
from pipelines.publish.config import PublishConfig
from pipelines.publish.dataset import publish
from pipelines.runners import Engine
from training import train_dalle
from training.recipes import recipe
from training.reporting import read_metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "demo_losses.json"
UPDATES = 20
# Relative. Other CPUs add in another order, which 20 updates enlarge to about 1e-4.
TOLERANCE = 2e-3


def losses(directory: Path) -> dict[str, list[float]]:
    """Nats per text and per image token of the first updates, on a small synthetic corpus."""
    demo = recipe("demo")
    layout = Layout(str(directory / "data"))
    write_batch(layout, "a", range(120))
    config = BpeConfig(vocabulary=demo.text.vocabulary, max_length=demo.text.length)
    colours = MeanColour(demo.dvae.image_size, demo.dvae.grid, demo.dvae.vocabulary)
    bpe.train_tokenizer(["a"], layout, config)
    encode_pairs(
        "a", layout, config, EncodeConfig(), lambda: colours, colours.sha256, colours.grid,
        Engine(), image_size=colours.image_size, image_vocabulary=colours.vocabulary,
    )  # fmt: skip
    dataset = publish(["a"], layout, PublishConfig(row_group_rows=16)).directory
    train_dalle.train("demo", dataset, directory / "dalle", updates=UPDATES)
    lines = read_metrics(directory / "dalle")
    return {
        name: [line[name] for line in lines if name in line and line["step"] <= UPDATES]
        for name in ("text", "image")
    }


def main() -> None:
    """Write the file, and say what moved."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        found = losses(Path(directory))
    before = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else found
    content = {"torch": torch.__version__.split("+")[0], "relative_tolerance": TOLERANCE, **found}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
    for name, values in found.items():
        moved = max(abs(new / old - 1) for new, old in zip(values, before[name], strict=True))
        print(f"{GOLDEN.name}: {name} losses moved by at most {moved:.2e} of their value")


if __name__ == "__main__":
    main()
