"""Draw pictures for captions: image codes one position at a time, with cached keys and values."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.errors import InputError
from training.models.dvae import DVAE
from training.models.transformer import Transformer
from training.text import TextEncoder

_BATCH = 64


@torch.inference_mode()
def sample_codes(
    model: Transformer, text: Tensor, *, generator: torch.Generator, temperature: float = 1.0
) -> Tensor:
    """Sample codes for padded text.

    Args:
        model: in evaluation mode.
        text: padded ids [B, T] (`Transformer.pad_text`).
        generator: on the model's device; the same seed gives the same codes.
        temperature: of the softmax; the paper samples at 1 (section 2.6).

    Returns:
        int64 codes [B, G*G] in raster order.

    Raises:
        InputError: if the temperature is not positive.
    """
    if temperature <= 0:
        raise InputError(f"temperature must be positive, got {temperature}")
    count, positions = len(text), model.grid**2
    caches = model.empty_caches(count)
    state = model.states(model.embed_text(text), caches)[:, -1]
    codes = text.new_empty(count, positions)
    for i in range(positions):
        logits = model.image_head(state).float() / temperature
        # Gumbel-max: the same distribution as multinomial, without a sort or a synchronisation.
        exponential = torch.empty_like(logits).exponential_(generator=generator)
        codes[:, i] = (logits - exponential.log()).argmax(-1)
        if i + 1 < positions:
            inputs = model.embed_image(codes[:, i : i + 1], first=i)
            state = model.states(inputs, caches, start=model.text_length + 1 + i)[:, -1]
    return codes


def draw(
    model: Transformer,
    dvae: DVAE,
    encoder: TextEncoder,
    captions: Sequence[str],
    candidates: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Pictures for captions, uint8 [captions, candidates, 3, S, S].

    Args:
        model: the transformer.
        dvae: decodes its codes.
        encoder: of the dataset it was trained on.
        captions: one or more.
        candidates: pictures for each, at least 1.
        seed: of everything random.
        temperature: of the softmax.
        progress: told how many pictures are done.

    Raises:
        InputError: without captions or candidates.
    """
    if not captions or candidates < 1:
        raise InputError(f"{len(captions)} captions x {candidates} candidates: nothing to draw")
    ids, lengths = encoder.pad([encoder.encode(caption) for caption in captions])
    device = model.image_head.weight.device
    text = model.pad_text(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device))
    text = text.repeat_interleave(candidates, dim=0)
    generator = torch.Generator(device).manual_seed(seed)
    pictures: list[Tensor] = []
    for part in text.split(_BATCH):
        codes = sample_codes(model, part, generator=generator, temperature=temperature)
        pictures.append(dvae.reconstruct(codes.view(-1, model.grid, model.grid)).cpu())
        progress(sum(map(len, pictures)))
    return torch.cat(pictures).unflatten(0, (len(captions), candidates))
