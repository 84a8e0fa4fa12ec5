"""Sampling of series from the temporal prior for given household numbers, in training and for a release.

Axis letters: B series, Z latent, H household numbers, N tokens, P values of a token.
"""

import torch
from numpy.typing import NDArray
from torch import Tensor

from ttsgan.data import calendar
from ttsgan.data.scaling import SeriesScaler
from ttsgan.models.networks import Networks
from ttsgan.models.patching import patchify, unpatchify


@torch.no_grad()
def draw_scores(
    networks: Networks,
    scaler: SeriesScaler,
    cond_BZ: Tensor,
    numbers_BH: Tensor,
    starts: NDArray,
    generator: torch.Generator,
) -> Tensor:
    """Draw score tokens (B, N, P) of households with these numbers, on the device of ``cond_BZ``."""
    shape, lead, numbers = networks.shape, networks.lead, numbers_BH.cpu().numpy()
    features = calendar.features_of(starts, shape.num_tokens, shape.patch_size * scaler.step_seconds, lead)
    regular = torch.from_numpy(scaler.regular(numbers, starts, lead * shape.patch_size))
    tokens = (patchify(regular, shape.patch_size), torch.from_numpy(features))
    residual = networks.draw_residual(cond_BZ, numbers_BH, *(part.to(cond_BZ) for part in tokens), generator)
    drawn = unpatchify(residual.float(), shape.channels, shape.length).cpu().numpy()
    return patchify(torch.from_numpy(scaler.compose_scores(drawn, numbers, starts)), shape.patch_size).to(cond_BZ)
