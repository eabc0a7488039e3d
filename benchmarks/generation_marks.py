"""Drawing pictures beside the fastest peer, on the CPU: what `sample_codes` does by default."""

from benchmarks.marks import Mark, compare
from benchmarks.training_marks import ours, tokens
from benchmarks.training_peers import GRID, x_transformers

_ROUNDS = 3


def generate_16() -> Mark:
    """16 pictures of one caption."""
    return _generation(16, 3.0)


def generate_64() -> Mark:
    """64 pictures of one caption."""
    return _generation(64, 4.5)


def _generation(candidates: int, least: float) -> Mark:
    import torch

    from training.drawing.sampling import sample_codes

    model, _ = ours()
    text, _ = tokens()
    peer = x_transformers()
    prompt = text[:1].expand(candidates, -1)

    def draw() -> None:
        list(sample_codes(model.eval(), text[:1], candidates))

    def generate() -> None:
        with torch.inference_mode():
            # Its default keeps a share of the codes only; no filter is the paper's.
            peer.generate(prompt, GRID**2, cache_kv=True, filter_logits_fn=lambda x: x)

    seconds = compare(draw, generate, _ROUNDS)
    return Mark(f"{candidates} pictures drawn", *seconds, "x-transformers, cached", least)
