"""Parity with OpenAI's package, on random weights."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dall_e import map_pixels, unmap_pixels
from dall_e.decoder import Decoder
from dall_e.encoder import Encoder

from training.convert_openai_dvae import convert
from training.dvae.legacy import LegacyFileError, read_state
from training.image_tokenizer import image_tokenizer_info
from training.models.dvae import DVAE
from training.models.loading import load_dvae
from training.models.openai_dvae import LayoutError

Peers = tuple[Encoder, Decoder]


@pytest.fixture(scope="module")
def peers() -> Peers:
    torch.manual_seed(0)
    pair = (
        Encoder(n_hid=64, n_blk_per_group=2, vocab_size=512),
        Decoder(n_hid=64, n_blk_per_group=2, n_init=16, vocab_size=512),
    )
    for module in pair:
        for name, parameter in module.named_parameters():
            if name.endswith(".b"):  # zero biases would hide their omission
                torch.nn.init.normal_(parameter, std=0.1)
    return pair


@pytest.fixture(scope="module")
def model(peers: Peers) -> DVAE:
    return DVAE.from_openai(peers[0].state_dict(), peers[1].state_dict())


@pytest.mark.parametrize("size", [(32, 32), (64, 40), (96, 128)])
def test_same_logits_tokens_and_pictures(peers: Peers, model: DVAE, size: tuple[int, int]) -> None:
    encoder, decoder = peers
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        logits = encoder(map_pixels(images.float() / 255))
        codes = logits.argmax(1)
        maps = decoder(F.one_hot(codes, 512).permute(0, 3, 1, 2).float())
        pictures = (unmap_pixels(torch.sigmoid(maps[:, :3])) * 255).round()
        torch.testing.assert_close(model.logits(images), logits)
    assert model.logits(images).dtype == torch.float32
    assert torch.equal(model.tokens(images), codes)
    assert codes.shape == (2, size[0] // 8, size[1] // 8)
    restored = model.reconstruct(codes)
    assert restored.shape == images.shape
    # The embedding is looked up here and multiplied there: a value at .5 may round otherwise.
    assert (restored.float() - pictures).abs().max() <= 1
    assert (restored.float() == pictures).float().mean() > 0.999


def test_export_is_what_was_read(peers: Peers, model: DVAE) -> None:
    for peer, state in zip(peers, model.to_openai(), strict=True):
        assert list(state) == list(peer.state_dict())
        assert all(torch.equal(w, state[name]) for name, w in peer.state_dict().items())
        peer.load_state_dict(state)


def test_what_is_no_such_dictionary_is_refused(peers: Peers) -> None:
    encoder, decoder = (peer.state_dict() for peer in peers)
    with pytest.raises(LayoutError, match="encoder first and the decoder second"):
        DVAE.from_openai(decoder, encoder)
    with pytest.raises(LayoutError, match=r"has no 'blocks\.input\.w'"):
        DVAE.from_openai({"input.weight": torch.zeros(1)}, decoder)
    other = Decoder(n_hid=64, n_init=16, vocab_size=600)
    with pytest.raises(LayoutError, match="512 codes and the decoder 600"):
        DVAE.from_openai(encoder, other.state_dict())
    cut = {name: w for name, w in encoder.items() if "group_3.block_2" not in name}
    with pytest.raises(LayoutError, match=r"groups\.2\.1"):
        DVAE.from_openai(cut, decoder)
    with pytest.raises(LayoutError, match=r"'blocks\.extra\.w' is no tensor"):
        DVAE.from_openai({**encoder, "blocks.extra.w": torch.zeros(1)}, decoder)


@pytest.mark.parametrize("whole", [True, False])
def test_a_legacy_file_becomes_a_model_directory(
    peers: Peers, model: DVAE, tmp_path: Path, whole: bool
) -> None:
    """OpenAI published whole modules; others publish state dictionaries."""
    paths = [tmp_path / "encoder.pkl", tmp_path / "decoder.pkl"]
    for peer, path in zip(peers, paths, strict=True):
        torch.save(peer if whole else peer.state_dict(), path)
    convert(paths[0], paths[1], tmp_path / "out", 64)
    found = load_dvae(tmp_path / "out")
    assert found.config.image_size == 64
    mine, theirs = found.state_dict(), model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    info = image_tokenizer_info(str(tmp_path / "out"))
    assert (info.grid, info.vocabulary) == (8, 512)


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_file_that_runs_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    path, mark = tmp_path / "encoder.pkl", tmp_path / "ran"
    torch.save({"w": Evil(mark)}, path)
    with pytest.raises(LegacyFileError, match="no weight file that can be read safely"):
        read_state(path)
    assert not mark.exists()
    torch.save([1, 2], path)
    with pytest.raises(LegacyFileError, match="holds a list"):
        read_state(path)
    path.write_bytes(b"not a file of weights")
    with pytest.raises(LegacyFileError):
        read_state(path)
