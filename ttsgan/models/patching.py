"""Conversion of series to tokens and back.

Axis letters: B series, C channels, T time steps, N tokens, P values of a token (all channels of one patch).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def num_tokens(length: int, patch_size: int) -> int:
    """Return how many patches cover ``length`` points; the last one may include padding."""
    return -(-length // patch_size)


def patchify(x_BCT: Tensor, patch_size: int) -> Tensor:
    """Return tokens (B, N, P) with P = C * patch_size; the end is padded with zeros (False for booleans)."""
    missing = -x_BCT.shape[-1] % patch_size
    if missing:
        x_BCT = F.pad(x_BCT, (0, missing))
    return x_BCT.unflatten(-1, (-1, patch_size)).transpose(1, 2).flatten(2)


def unpatchify(tokens_BNP: Tensor, channels: int, length: int) -> Tensor:
    """Return series (B, C, T) without padding; the inverse of `patchify`."""
    return tokens_BNP.unflatten(-1, (channels, -1)).transpose(1, 2).flatten(2)[..., :length]


def tokens_at(x_BNP: Tensor, at_BN: Tensor) -> Tensor:
    """Return the tokens (B, n, P) at indices (B, n), or (1, n) for the same indices in all series."""
    # At most a third of the time of `take_along_dim`, which looks up every value of a token.
    return x_BNP[torch.arange(len(x_BNP), device=x_BNP.device)[:, None], at_BN]
