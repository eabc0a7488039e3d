"""The memory that a run is said to need, beside what it keeps, and the error without it."""

import dataclasses

import pytest
import tiny_training
import torch
from tiny_training import Finished

from training.config import TransformerConfig
from training.dalle.execution import Execution, Sharding
from training.dalle.memory import KEPT, KEPT_RECOMPUTING, Need, estimate, lacking
from training.dalle.precision import Precision, recompute_blocks, run_blocks_in
from training.dalle.trainer import DALLETrainer
from training.errors import InputError
from training.models.transformer import Transformer
from training.recipes import paper_12b
from training.runtime import Runtime
from training.token_data import TokenData

CPU = torch.device("cpu")
TOKENS = {"text_vocabulary": 100, "text_length": 32, "image_vocabulary": 64, "grid": 8}
ROWS = 16


def kept(precision: Precision, recompute: bool, depth: int) -> int:
    """Bytes that autograd keeps for the backward pass, parameters apart."""
    model = Transformer(TransformerConfig(depth=depth, heads=2, head_width=32), **TOKENS)
    if recompute:
        recompute_blocks(model.blocks)
    run_blocks_in(precision, model.blocks, 1, CPU)
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        text = torch.zeros(ROWS, model.text_length, dtype=torch.long)
        model(text, torch.zeros(ROWS, model.grid**2, dtype=torch.long))
    return sum(found.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", list(KEPT))
def test_a_layer_keeps_what_the_table_says(precision: Precision, recompute: bool) -> None:
    layer = (kept(precision, recompute, 6) - kept(precision, recompute, 3)) / 3
    cells = ROWS * (32 + 8 * 8) * 64
    table = KEPT_RECOMPUTING if recompute else KEPT
    # bf16 keeps its copies of the weights besides.
    copies = 2 * 12 * 64**2 if precision is Precision.BF16 and not recompute else 0
    assert (layer - copies) / cells == pytest.approx(table[precision], rel=0.05)


def of_paper(world: int, execution: Execution, precision: Precision = Precision.BF16) -> Need:
    runtime = Runtime(0, world, torch.device("cuda"))
    tokens = {"text_vocabulary": 16_384, "text_length": 256, "image_vocabulary": 8192, "grid": 32}
    return estimate(paper_12b().transformer, tokens, 1024 // world, precision, execution, runtime)


def test_the_papers_model_fits_when_it_is_sharded_and_recomputed() -> None:
    alone = of_paper(1, Execution(micro_batch=1))
    assert alone.parameters == pytest.approx(4 * 12.3e9, rel=0.01)
    assert alone.gradients == alone.moments / 2 == alone.parameters
    assert alone.averages == 0  # in host memory
    sharded = of_paper(64, Execution(sharding=Sharding.ALL, recompute=True, micro_batch=1))
    assert sharded.moments == pytest.approx(alone.moments / 64, rel=1e-6)
    # Attention and MLP of a layer, and what is in none: embeddings and unembeddings.
    held, width = sharded.moments / 2, 3968
    beside = (2 * 16_384 + 3 * 256 + 2 * 8192 + 2 * 32) * width
    gathered = sharded.parameters - held
    assert gathered == pytest.approx(4 * (12.09e9 / 64 + beside), rel=0.01)
    assert sharded.total < 20e9 < alone.total
    whole = of_paper(64, Execution(compress=True, recompute=True, micro_batch=1))
    assert whole.errors == pytest.approx(4 * 12.09e9, rel=0.01)
    rows = [of_paper(64, Execution(micro_batch=n)).activations for n in (4, 8, 16, 0)]
    assert rows[0] < rows[1] < rows[2] == rows[3]


def test_a_machines_own_memory_holds_models_averages_and_what_a_checkpoint_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    whole = of_paper(64, Execution()).moments // 2
    # Averages and their copy in each process; both moments in the one that writes them.
    assert of_paper(64, Execution()).host == 8 * 2 * whole + 2 * whole
    # Of eight shards in each, the models that all build at first are more.
    assert of_paper(64, Execution(sharding=Sharding.ALL)).host == pytest.approx(8 * whole, rel=1e-6)
    assert of_paper(8, Execution(sharding=Sharding.ALL)).host == pytest.approx(8 * whole, rel=1e-6)
    need = Need(0, 0, 0, 0, 0, 0, host=3 * 2**30)
    assert lacking(need, 0, Execution(), host_free=3 * 2**30) is None
    assert str(lacking(need, 0, Execution(), host_free=2**30)) == (
        "the 8 processes of this machine need about 3 GiB of its own memory (each keeps averaged "
        "weights and a copy of them there), and 1 GiB are free; take fewer processes a machine, "
        "--shard=machine, or a smaller recipe"
    )
    said = str(lacking(need, 0, Execution(sharding=Sharding.ALL), host_free=2**30))
    assert "a copy of them there, and at first the whole model), and 1 GiB are free" in said
    runtime = Runtime(0, 1, CPU)
    tokens = {"text_vocabulary": 9, "text_length": 2, "image_vocabulary": 9, "grid": 2}
    need = estimate(
        tiny_training.tiny().transformer, tokens, 1, Precision.FP32, Execution(), runtime
    )
    assert need.host == 0  # a CPU's is the device's


def test_error_buffers_are_of_shards_and_only_where_copies_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    execution = Execution(sharding=Sharding.MACHINE, compress=True)
    assert of_paper(64, execution).errors == pytest.approx(4 * 12.09e9 / 8, rel=0.01)
    assert of_paper(8, execution).errors == 0


def test_too_little_memory_is_one_sentence_with_what_helps() -> None:
    need = Need(3 * 2**30, 3 * 2**30, 6 * 2**30, 0, 0, 2**30)
    assert lacking(need, need.total, Execution()) is None
    assert str(lacking(need, 2**30, Execution())) == (
        "a process needs about 13 GiB (parameters 3, gradients 3, moments 6, activations 1), and "
        "its device has 1 GiB free for it; take a smaller --micro-batch, --recompute, "
        "--shard=machine with several processes, or a smaller recipe"
    )
    most = Execution(sharding=Sharding.ALL, recompute=True)
    assert "--micro-batch, more processes, or" in str(lacking(need, 2**30, most))


def test_a_run_ends_before_it_takes_what_is_not_there(finished: Finished) -> None:
    recipe = dataclasses.replace(tiny_training.tiny(), transformer=paper_12b().transformer)
    data = TokenData(finished.dataset, recipe)
    with pytest.raises(InputError, match=r"needs about 2\d\d GiB"):
        DALLETrainer(data, Runtime(0, 1, CPU), "run", free=2**33)
