"""CPU time of stage two's AdamW beside torch's fused one: `python -m benchmarks.optimizer_cost`.

Where the norm shows that the clip of the variance does not bind, where only the greatest element
shows it, and where the clip is computed.
"""

import argparse
import dataclasses

import torch

from benchmarks.marks import compare
from training.config import TransformerConfig
from training.dalle.optimizer import ClippedAdamW, clip_by_norm, global_norm
from training.models.transformer import Transformer
from training.recipes import cc3m_1b

_CONFIG = TransformerConfig(depth=6, heads=8, head_width=64)
_TOKENS = {"text_vocabulary": 4096, "text_length": 64, "image_vocabulary": 2048, "grid": 16}
_UPDATES = 5


def _model(size: float) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(_CONFIG, **_TOKENS)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    norm = float(global_norm(p.grad for p in model.parameters() if p.grad is not None))
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad *= size / norm
    return model


def cost(norm: float, clip: float) -> tuple[float, float]:
    """Median CPU seconds of an update, ours and torch's with `clip_grad_norm_`.

    Args:
        norm: of the gradients.
        clip: of the running variance.
    """
    model, plain = _model(norm), _model(norm)
    adamw = dataclasses.replace(cc3m_1b().dalle_training.adamw, variance_clip=clip)
    ours = ClippedAdamW(model, adamw)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-4, betas=(0.9, 0.96), fused=True)

    def clipped() -> None:
        for _ in range(_UPDATES):
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            found = float(global_norm(gradients))
            ours.update(1e-4, clip_by_norm(gradients, found, 4.0))

    def torchs() -> None:
        for _ in range(_UPDATES):
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 4.0, foreach=True)
            theirs.step()

    found = compare(clipped, torchs)
    return found[0] / _UPDATES, found[1] / _UPDATES


def main() -> None:
    """Print all cases."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.optimizer_cost", description=__doc__
    ).parse_args()
    torch.set_num_threads(1)
    count = sum(p.numel() for p in _model(1.0).parameters())
    print(f"{count / 1e6:.1f} M parameters, one core; clip of the norm and one update")
    cases = (("free by the norm", 5.0), ("free by the greatest", 1e-3), ("clipped", 1e-9))
    for name, clip in cases:
        ours, theirs = (1e3 * seconds for seconds in cost(1.0, clip))
        print(f"variance {name:20} {ours:7.1f} ms, fused AdamW {theirs:7.1f} ms", end="")
        print(f": {ours / theirs:.2f} times its time", flush=True)


if __name__ == "__main__":
    main()
