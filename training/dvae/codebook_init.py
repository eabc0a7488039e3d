"""A data-dependent start for the codebook of short runs.

Not in the paper, whose three million updates can afford dead codes. With random codes a run of
a few thousand updates ends with a tenth of the codebook in use: the codes that are picked first
are trained first. So the encoder's random features are clustered, the 1x1 output convolution
becomes the (scaled, negative, squared) distance to each centre, and the decoder's embedding of
a code is a random projection of its centre, so that similar codes begin as similar pictures.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.dvae import DVAE, images_to_input

# Mean squared distance to the own centre, in nats: how sure the first posterior is.
_SHARPNESS = 4.0
_ITERATIONS = 10


@torch.no_grad()
def initialise_codebook(model: DVAE, images: Tensor) -> None:
    """Cluster the features of uint8 [B, 3, S, S] and set both 1x1 convolutions."""
    encoder, decoder = model.encoder, model.decoder
    features = F.relu(encoder.groups(encoder.input(images_to_input(images))))
    points = features.permute(0, 2, 3, 1).flatten(0, 2)
    centres, distortion = k_means(points, model.config.vocabulary)
    sharpness = _SHARPNESS / distortion
    encoder.output.weight.copy_((sharpness * centres)[:, :, None, None])
    encoder.output.bias.copy_(-sharpness * centres.square().sum(1) / 2)  # type: ignore[union-attr]
    unit = (centres - centres.mean(0)) / centres.std(0).clamp(min=1e-6)
    width = decoder.input.weight.shape[0]
    projection = torch.randn(centres.shape[1], width, device=centres.device)
    embedding = unit @ projection / centres.shape[1] ** 0.5
    decoder.input.weight.copy_(embedding.t()[:, :, None, None])


def k_means(points: Tensor, clusters: int) -> tuple[Tensor, float]:
    """Lloyd's algorithm; an empty cluster takes over the point that is farthest from its own.

    Args:
        points: [N, D], N at least `clusters`.
        clusters: how many centres.

    Returns:
        Centres [clusters, D] and the mean squared distance.
    """
    centres = points[torch.randperm(len(points), device=points.device)[:clusters]].clone()
    for _ in range(_ITERATIONS):
        distance, nearest = torch.cdist(points, centres).min(1)
        size = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = sums / size.clamp(min=1)[:, None]
        empty = size == 0
        centres[empty] = points[distance.topk(int(empty.sum())).indices]
    return centres, float(distance.square().mean().clamp(min=1e-6))
