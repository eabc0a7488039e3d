import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training import host_memory
from training.config import TransformerConfig
from training.drawing.choosing import SamplingOptions, chosen, groups, noise_of
from training.drawing.sampling import (
    Drawing,
    Drawn,
    Prompt,
    keep_outside,
    sample_codes,
    streams_in_memory,
)
from training.errors import InputError
from training.models import decoding
from training.models.attention import Pattern
from training.models.decoding import Decoder, for_few_rows
from training.models.transformer import Transformer

TEXT, GRID, WORDS, CODES = 5, 4, 20, 12


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(depth=4, heads=2, head_width=8, convolution_kernel=3)
    model = Transformer(config, WORDS, TEXT, CODES, GRID).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def text(model: Transformer) -> Tensor:
    ids = torch.arange(2 * TEXT).view(2, TEXT)
    return model.pad_text(ids, torch.tensor([TEXT, 3]))


def drawn(model: Transformer, text: Tensor, candidates: int, **settings: object) -> Drawn:
    """Everything that is drawn, [A, K, ...]."""
    parts = sample_codes(model, text, candidates, **settings)  # type: ignore[arg-type]
    codes, nats = (torch.cat(found) for found in zip(*parts, strict=True))
    return Drawn(*(x.unflatten(0, (len(text), candidates)) for x in (codes, nats)))


def codes_of(model: Transformer, text: Tensor, candidates: int, **settings: object) -> Tensor:
    return drawn(model, text, candidates, **settings).codes


@pytest.mark.parametrize(
    ("kind", "places"), [("row", 33), ("convolution", 166), ("column", 1024), ("causal", 1024)]
)
def test_caches_are_as_small_as_the_mask_allows(kind: str, places: int) -> None:
    assert decoding.kept(Pattern(kind, 257, 32, 11)) == places
    read = {"column": 32}.get(kind, places)
    assert decoding.slots(Pattern(kind, 257, 32, 11)) == read


def test_a_step_reads_exactly_what_the_mask_allows() -> None:
    for kind in ("row", "column", "convolution"):
        pattern = Pattern(kind, 7, 8, 5)
        seen = decoding._visible(pattern).isfinite().sum(1)
        mask = Pattern(kind, 0, 8, 5)
        order = mask.place(torch.arange(63))
        assert torch.equal(seen[:63], mask.mask().sum(1)[order])


@pytest.mark.parametrize(
    "options", [SamplingOptions(), SamplingOptions(0.9, top_k=9, top_p=0.9, guidance=2.0)]
)
def test_a_step_compiles_to_one_static_graph(
    model: Transformer, text: Tensor, options: SamplingOptions
) -> None:
    """So it asks the host for nothing: that would break the graph in two."""
    given = Prompt(torch.zeros(GRID, GRID, dtype=torch.long), keep_outside(GRID, 1))
    with torch.inference_mode():
        noise = noise_of([1, 2, 3, 4, 5, 6], GRID**2, CODES, text.device)
        drawings = [Drawing(model, 2, 3, options, given) for _ in range(2)]
        for drawing in drawings:
            drawing.begin(text, noise)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(drawings[0], fullgraph=True, backend="eager")
        for _ in range(GRID**2 - 1):
            compiled()
            drawings[1]()
    assert torch.equal(drawings[0].codes, drawings[1].codes)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_what_cuda_computes_is_what_a_cpu_does(
    model: Transformer, text: Tensor, dtype: torch.dtype, apart: float
) -> None:
    """Layers of all kinds, one after the other."""
    model = copy.deepcopy(model).to(dtype)
    assert {c.pattern.kind for c in Decoder(model, 1, 1).caches} == {"row", "column", "convolution"}
    codes = torch.arange(6 * GRID**2).view(6, -1) * 7 % CODES
    with torch.inference_mode():
        as_here, as_cuda = (Decoder(model, 2, 3) for _ in range(2))
        assert not as_here.fused
        as_cuda.fused = True
        torch.testing.assert_close(as_cuda.begin(text), as_here.begin(text))
        for position in range(GRID**2 - 1):
            found, expected = (
                d(codes[:, position], torch.tensor([position])) for d in (as_cuda, as_here)
            )
            assert found.isfinite().all()
            assert float((found - expected).abs().max() / expected.abs().max()) < apart


def test_memory_is_allocated_once(model: Transformer, text: Tensor) -> None:
    with torch.inference_mode():
        drawing = Drawing(model, 2, 3, SamplingOptions(), None)
        places = [buffer.data_ptr() for buffer in drawing.buffers()]
        for seed in range(2):
            drawing.begin(text, noise_of([seed] * 6, GRID**2, CODES, text.device))
            for _ in range(GRID**2 - 1):
                drawing()
    assert [buffer.data_ptr() for buffer in drawing.buffers()] == places


def test_weights_for_few_rows_leave_the_model_as_it_is(model: Transformer, text: Tensor) -> None:
    places = [p.data_ptr() for p in model.parameters()]
    codes = torch.zeros(2, GRID**2, dtype=torch.long)
    with torch.inference_mode():
        few = for_few_rows(model)
        torch.testing.assert_close(few.logits(text, codes), model.logits(text, codes))
    assert few.image_head.weight.mT.is_contiguous()
    assert few.image_embedding.weight.data_ptr() == model.image_embedding.weight.data_ptr()
    assert [p.data_ptr() for p in model.parameters()] == places
    assert all(p.is_contiguous() and not p.is_inference() for p in model.parameters())


def test_nearly_at_temperature_0_every_code_is_the_likeliest(
    model: Transformer, text: Tensor
) -> None:
    cold = SamplingOptions(temperature=1e-6)
    codes = codes_of(model, text, 1, options=cold)[:, 0]
    with torch.inference_mode():
        assert torch.equal(model.logits(text, codes).image.argmax(-1), codes)


def test_at_temperature_1_codes_are_drawn_from_the_softmax(
    model: Transformer, text: Tensor
) -> None:
    first = codes_of(model, text[:1], 3000, most=3000)[0, :, 0]
    found = torch.bincount(first, minlength=CODES) / 3000
    with torch.inference_mode():
        zeros = torch.zeros(1, GRID**2, dtype=torch.long)
        expected = model.logits(text[:1], zeros).image[0, 0].softmax(-1)
    deviation = (found - expected).abs() / (expected * (1 - expected) / 3000).sqrt()
    assert float(deviation.max()) < 4


@pytest.mark.parametrize(("vocabulary", "shape"), [(12, (3, 4)), (8192, (64, 128)), (13, (1, 13))])
def test_a_group_and_then_its_code_are_the_softmax(vocabulary: int, shape: tuple[int, int]) -> None:
    assert groups(vocabulary) == shape
    draws, few = 20_000, min(vocabulary, 13)
    scores = torch.full((vocabulary,), -torch.inf)
    # Codes far apart, so that they are of different groups.
    possible = torch.arange(few) * (vocabulary // few)
    scores[possible] = torch.linspace(-3, 1, few)
    noise = noise_of([7], draws, vocabulary, scores.device)[0]
    found = torch.bincount(chosen(scores.expand(draws, -1), noise), minlength=vocabulary) / draws
    expected = scores.softmax(-1)
    assert not found[expected == 0].any()
    deviation = (found - expected).abs() / (expected * (1 - expected) / draws).sqrt()
    assert float(deviation[possible].max()) < 4


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_nats_are_those_of_the_codes(model: Transformer, text: Tensor, guidance: float) -> None:
    codes, nats = drawn(model, text, 3, options=SamplingOptions(0.8, guidance=guidance))
    with torch.inference_mode():
        logits = model.logits(text.repeat_interleave(3, 0), codes.flatten(0, 1)).image
    expected = F.cross_entropy(logits.mT, codes.flatten(0, 1), reduction="none").sum(1)
    torch.testing.assert_close(nats.flatten(), expected)


def test_what_is_drawn_so_far_is_shown_at_every_row(model: Transformer, text: Tensor) -> None:
    shown: list[Tensor] = []
    told: list[int] = []
    codes = codes_of(
        model, text[:1], 3, look=lambda c: shown.append(c.clone()), progress=told.append
    )[0]
    assert sum(told) == 3 * GRID**2
    assert [part.shape[1] for part in shown] == [4, 8, 12, 16]
    assert all(torch.equal(part, codes[:, : part.shape[1]]) for part in shown)


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_the_split_into_batches_decides_nothing(
    model: Transformer, text: Tensor, most: int
) -> None:
    whole = codes_of(model, text, 5, seed=3, most=10)
    assert torch.equal(codes_of(model, text, 5, seed=3, most=most), whole)
    assert torch.equal(codes_of(model, text[1:], 2, seed=3)[0], whole[1, :2])
    assert not torch.equal(codes_of(model, text, 5, seed=4), whole)
    assert len({tuple(c.tolist()) for c in whole.flatten(0, 1)}) == 10


@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(guidance=2.0)])
def test_the_text_is_read_once_for_batches_of_one_caption(
    model: Transformer, text: Tensor, monkeypatch: pytest.MonkeyPatch, options: SamplingOptions
) -> None:
    whole = codes_of(model, text, 6, options=options, most=12)
    read: list[Tensor] = []
    plain = Transformer.embed_text

    def counted(self: Transformer, text: Tensor) -> Tensor:
        read.append(text)
        return plain(self, text)

    monkeypatch.setattr(Transformer, "embed_text", counted)
    # Also of as equal batches as there can be: of 2, and of 3 where at most 4 fit.
    for candidates, most in ((6, 2), (5, 4)):
        read.clear()
        wanted = whole[:, :candidates]
        assert torch.equal(codes_of(model, text, candidates, options=options, most=most), wanted)
        assert [part[0].tolist() for part in read] == text.tolist()


@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(guidance=2.0)])
@pytest.mark.parametrize("candidates", [1, 8])
def test_half_of_the_free_memory_holds_what_is_drawn_together(
    model: Transformer,
    monkeypatch: pytest.MonkeyPatch,
    options: SamplingOptions,
    candidates: int,
) -> None:
    free = 400_000
    monkeypatch.setattr(host_memory, "available", lambda: free)
    most = streams_in_memory(model, options, candidates)
    assert 1 < most < 64
    captions = max(1, most // candidates)
    drawing = Drawing(model, captions, min(most, candidates), options, None)
    held = {name: buffer.nbytes for name, buffer in drawing.named_buffers()}
    # Masks are the model's, however many are drawn; noise is made beside its buffer.
    assert sum(held.values()) + held["noise"] < free / 2


def test_a_little_more_or_less_free_memory_is_the_same_program(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for free in range(400_000, 460_000, 5_000):
        monkeypatch.setattr(host_memory, "available", lambda free=free: free)
        found.append(streams_in_memory(model, SamplingOptions(), 100))
    assert len(set(found)) <= 2
    assert all(most.bit_count() == 1 for most in found)


def test_a_model_of_no_numbers_draws_nothing(model: Transformer, text: Tensor) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.image_head.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="its weights are damaged"):
        codes_of(broken, text, 1)


@pytest.mark.parametrize(
    ("free", "parts"), [(10**9, 1), (150_000, 2), (90_000, 4), (40_000, 6), (0, 10)]
)
def test_little_memory_draws_smaller_parts_and_the_same_pictures(
    model: Transformer, text: Tensor, monkeypatch: pytest.MonkeyPatch, free: int, parts: int
) -> None:
    whole = codes_of(model, text, 5, seed=3, most=10)
    monkeypatch.setattr(host_memory, "available", lambda: free)
    found = [part.codes for part in sample_codes(model, text, 5, seed=3)]
    assert len(found) == parts
    assert torch.equal(torch.cat(found), whole.flatten(0, 1))


def test_top_k_and_top_p_rule_codes_out() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert SamplingOptions(top_k=2).scores(logits).isfinite().tolist() == [
        [True, True, False, False]
    ]
    assert SamplingOptions(top_p=0.7).scores(logits).isfinite().tolist() == [
        [True, True, False, False]
    ]
    assert SamplingOptions(top_p=1e-9).scores(logits).isfinite().sum() == 1
    assert torch.equal(SamplingOptions().scores(logits), logits)


def test_guidance_extrapolates_from_no_caption(model: Transformer, text: Tensor) -> None:
    options = SamplingOptions(temperature=1e-6, guidance=3.0)
    codes = codes_of(model, text, 1, options=options)[:, 0]
    nothing = model.pad_text(torch.zeros_like(text), torch.zeros(2, dtype=torch.long))
    with torch.inference_mode():
        with_text, without = (model.logits(t, codes).image for t in (text, nothing))
    assert torch.equal((without + 3 * (with_text - without)).argmax(-1), codes)
    plain = codes_of(model, text, 1, options=SamplingOptions(temperature=1e-6))[:, 0]
    assert not torch.equal(plain, codes)


@pytest.mark.parametrize(("row", "column", "kept"), [(2, 0, 8), (1, 3, 13)])
def test_a_prompt_is_kept_and_the_rest_drawn(
    model: Transformer, text: Tensor, row: int, column: int, kept: int
) -> None:
    where = keep_outside(GRID, row, column)
    assert int(where.sum()) == kept
    given = torch.arange(GRID**2).view(GRID, GRID) % CODES
    codes = codes_of(model, text, 3, prompt=Prompt(given, where)).unflatten(-1, (GRID, GRID))
    assert (codes[..., where] == given[where]).all()
    assert len({tuple(c.tolist()) for c in codes[..., ~where].flatten(0, 1)}) > 1


@pytest.mark.parametrize("place", [(0, 0), (4, 0), (1, 4), (-1, 2)])
def test_a_prompt_without_sense_is_refused(place: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="keeps some of 4 rows and columns"):
        keep_outside(GRID, *place)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, r"temperature must be within 1e-06 and 1e\+06, got 0"),
        ({"temperature": 1e-45}, "temperature must be within"),
        ({"temperature": float("nan")}, "temperature must be within"),
        ({"top_k": -1}, "top_k must be at least 1"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\], got 0"),
        ({"guidance": float("inf")}, r"guidance must be within ±1e\+06, got inf"),
        ({"guidance": 1e300}, "guidance must be within"),
    ],
)
def test_options_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingOptions(**settings)  # type: ignore[arg-type]
