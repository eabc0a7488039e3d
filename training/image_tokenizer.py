"""A finished dVAE as the image tokenizer that the encode stage receives by injection."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.models.dvae import DVAE

Precision = Literal["fp32", "bf16"]

# Of one forward pass: on CPUs activations should stay in the caches, GPUs want work.
_CPU_PIXELS = 256**2
_GPU_BATCH = 64
# Compiling takes about a minute, which small pictures never give back.
_COMPILED_FROM = 128
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTokenizerInfo:
    """What a dataset records about its image tokenizer, known without loading the weights."""

    image_size: int
    grid: int
    vocabulary: int
    sha256: str


def image_tokenizer_info(model_dir: str) -> ImageTokenizerInfo:
    """Facts about the finished dVAE in `model_dir`.

    Raises:
        ModelError: if there is none.
    """
    from training import finished, remote

    model = remote.local(model_dir)
    config, digest = finished.dvae_config(model), finished.sha256(model)
    return ImageTokenizerInfo(config.image_size, config.grid, config.vocabulary, digest)


class DVAEImageTokenizer:
    """Encodes uint8 images [N, S, S, 3] as uint16 codes [N, grid, grid].

    Every forward pass has the same number of images, the last ones filled up with zeros: one
    compiled program serves all, and codes do not depend on how many images came together.

    Args:
        model: the dVAE, on its device.
        info: facts about it.
        precision: `bf16` computes all but the last convolution in it.
        compiled: whether torch.compile makes the program; by the size of images unless said.
        batch: images of one forward pass; by the device unless said.
    """

    def __init__(
        self,
        model: "DVAE",
        info: ImageTokenizerInfo,
        precision: Precision = "fp32",
        compiled: bool | None = None,
        batch: int | None = None,
    ):
        import torch

        device = next(model.parameters()).device
        self.image_size, self.grid = info.image_size, info.grid
        self.vocabulary, self.sha256 = info.vocabulary, info.sha256
        self.precision: str = precision
        self._device = device
        on_cpu = max(1, _CPU_PIXELS // info.image_size**2)
        self._batch = batch or (on_cpu if device.type == "cpu" else _GPU_BATCH)
        self._codes = codes_program(model, precision)
        if compiled is None:
            compiled = info.image_size >= _COMPILED_FROM and _can_compile(device)
        if compiled:
            # Freezing lets Inductor lay the weights out for the CPU's convolutions.
            options: dict[str, Any] = {"freezing": device.type == "cpu"}
            self._codes = torch.compile(self._codes, dynamic=False, options=options)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Codes of the images, without noise."""
        import torch

        from training.dvae.images import to_tensor

        parts = []
        with torch.inference_mode():
            for part in to_tensor(images).split(self._batch):
                whole = part.to(self._device, non_blocking=True)
                if missing := self._batch - len(part):
                    whole = torch.cat(
                        [whole, torch.zeros_like(whole[:1]).expand(missing, -1, -1, -1)]
                    )
                parts.append(self._codes(whole)[: len(part)])
            return torch.cat(parts).cpu().numpy()


def codes_program(model: "DVAE", precision: Precision) -> "Callable[[Tensor], Tensor]":
    """uint8 [B, 3, S, S] to uint16 codes [B, h, w]: the most likely one."""
    import torch

    def codes(images: "Tensor") -> "Tensor":
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model.logits(images).argmax(1).to(torch.uint16)

    return codes


def _can_compile(device: "torch.device") -> bool:
    if device.type != "cpu" or shutil.which("gcc") or shutil.which("g++") or shutil.which("clang"):
        return True
    log.warning("no C++ compiler is installed: the image tokenizer runs a third slower")
    return False


def load_image_tokenizer(model_dir: str, precision: Precision = "fp32") -> DVAEImageTokenizer:
    """Load the finished dVAE in `model_dir`, on the GPU where there is one.

    Raises:
        ModelError: if there is none.
    """
    import torch

    from training import remote
    from training.models.loading import load_dvae

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and precision == "fp32":
        # The default of cuDNN is TF32, whose mantissa is bf16's and three bits.
        torch.backends.cudnn.allow_tf32 = False
    model = load_dvae(remote.local(model_dir)).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return DVAEImageTokenizer(model, image_tokenizer_info(model_dir), precision)
