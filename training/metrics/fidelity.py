"""FID, KID and IS between two sets of pictures, and how they change with blur.

FID (arXiv 1706.08500) is biased upwards for small sets, and sets of different size are not
comparable, so both sides must have as many pictures; KID (arXiv 1801.01401) has no such bias and
stands beside it. The paper blurs both sides (arXiv 2102.12092, section 3.1 and Figure 9), so that
what the dVAE cannot keep does not count.
"""

import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from training.errors import InputError
from training.metrics.features import Features, Network, extract, joined

RADII = (0, 1, 2, 4, 8)

_KID_SUBSETS = 100
_KID_SUBSET = 1000
_IS_SPLITS = 10


@dataclass(frozen=True)
class Fidelity:
    """Figures of one comparison.

    Attributes:
        network: whose features were compared.
        pictures: on each side.
        fid: Frechet distance of the features.
        kid: mean of the squared kernel distance over subsets.
        kid_deviation: its standard deviation over the subsets.
        inception_score: of the drawn pictures alone.
        inception_score_deviation: its standard deviation over ten splits.
        reference_score: the same score of the reference pictures.
    """

    network: str
    pictures: int
    fid: float
    kid: float
    kid_deviation: float
    inception_score: float
    inception_score_deviation: float
    reference_score: float

    def to_json(self) -> dict[str, float | int | str]:
        """As plain values."""
        return asdict(self)


class _Ready(nn.Module):
    """Stands where torchmetrics expects a network: the features were made before."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def compare(drawn: Features, reference: Features) -> Fidelity:
    """FID, KID and IS of drawn pictures against reference pictures.

    Raises:
        InputError: if the sides differ in size or network, or have fewer than two pictures.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if drawn.network != reference.network:
        raise InputError(
            f"features of {drawn.network} and {reference.network} cannot be compared; "
            "use one network for both"
        )
    if len(drawn) != len(reference) or len(drawn) < 2:
        raise InputError(
            f"{len(drawn)} drawn and {len(reference)} reference pictures: both sides need the same "
            "number, and at least 2, since FID depends on it"
        )
    # The warning is that features are kept; there are thousands of pictures, not millions.
    warnings.filterwarnings("ignore", message="Metric .* will save all extracted features")
    fid = FrechetInceptionDistance(feature=_Ready(drawn.features.shape[1]))
    fid.update(torch.from_numpy(reference.features), real=True)
    fid.update(torch.from_numpy(drawn.features), real=False)
    subset = min(_KID_SUBSET, max(2, len(drawn) // 2))
    kid, kid_deviation = kernel_distance(drawn, reference, _KID_SUBSETS, subset)
    splits = min(_IS_SPLITS, len(drawn))
    score, deviation = inception_score(drawn, splits)
    return Fidelity(
        drawn.network,
        len(drawn),
        float(fid.compute()),
        kid,
        kid_deviation,
        score,
        deviation,
        inception_score(reference, splits)[0],
    )


def kernel_distance(
    drawn: Features, reference: Features, subsets: int, size: int
) -> tuple[float, float]:
    """KID (arXiv 1801.01401): mean and deviation over subsets of so many pictures a side."""
    from torchmetrics.image.kid import KernelInceptionDistance

    ready = _Ready(drawn.features.shape[1])
    # Subsets come from torch's global state; a figure must not depend on what ran before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kid = KernelInceptionDistance(ready, subsets=subsets, subset_size=size)
        kid.update(torch.from_numpy(reference.features), real=True)
        kid.update(torch.from_numpy(drawn.features), real=False)
        mean, deviation = kid.compute()
    return float(mean), float(deviation)


def inception_score(side: Features, splits: int) -> tuple[float, float]:
    """Inception score (arXiv 1606.03498): mean and deviation over splits."""
    from torchmetrics.image.inception import InceptionScore

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        score = InceptionScore(feature=_Ready(side.logits.shape[1]), splits=splits)
        score.update(torch.from_numpy(side.logits))
        mean, deviation = score.compute()
    return float(mean), float(deviation.nan_to_num())


def blurred(batch: Tensor, radius: float) -> Tensor:
    """Pictures uint8 [N, 3, H, W] after a Gaussian blur of `radius` pixels (its deviation)."""
    if radius == 0:
        return batch

    def blur(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))

    # Pillow lets other threads run while it blurs.
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(blur, batch.permute(0, 2, 3, 1).cpu().numpy()))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def blur_curve(
    network: Network, pictures: Iterable[Tensor], radii: Sequence[float] = RADII
) -> dict[float, Features]:
    """Features of one side at every radius; `compare` makes figures of two sides.

    Args:
        network: gives the features.
        pictures: batches uint8 [N, 3, H, W], read once.
        radii: of the blur, in pixels.

    Raises:
        InputError: if there is no picture.
    """
    found: dict[float, list[Features]] = {radius: [] for radius in radii}
    for batch in pictures:
        for radius, parts in found.items():
            parts.append(extract(network, [blurred(batch, radius)]))
    return {radius: joined(parts) for radius, parts in found.items()}
