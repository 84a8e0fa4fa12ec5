"""All losses, as pure, differentiable functions of tensors without state or randomness.

Each loss is a mean over series, so the mean over workers with equal shares of a batch is the loss of the batch. Only
`diversity`, a figure, needs an exchange between workers.

Synthetic series are called "fake" in adversarial losses. Logits are raw outputs of the discriminator, of any shape;
each loss is the mean over them. Names of adversarial losses:

==============  ====================================================  =====================================
name            discriminator                                         generator
==============  ====================================================  =====================================
standard        softplus(-real) + softplus(fake)                      softplus(-fake)   (non-saturating)
hinge           relu(1 - real) + relu(1 + fake)                       -fake
lsgan           (real - 1)^2 + fake^2                                 (fake - 1)^2
wgan-gp         fake - real                                           -fake
relativistic    softplus(fake - real), paired                         softplus(real - fake), paired
==============  ====================================================  =====================================

References: Goodfellow 2014; Lim and Ye 2017; Mao 2017; Gulrajani 2017; Huang et al. 2024 (R3GAN, eq. 3).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MeanOver = Callable[[Tensor], Tensor]
"""Averages a tensor over workers; `alone` for a single worker."""

SLOPE_STEP = 0.1
"""Length of the step, either way, in which a gradient penalty measures a slope."""

_DISCRIMINATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "standard": lambda real, fake: F.softplus(-real) + F.softplus(fake),
    "hinge": lambda real, fake: F.relu(1 - real) + F.relu(1 + fake),
    "lsgan": lambda real, fake: (real - 1).square() + fake.square(),
    "wgan-gp": lambda real, fake: fake - real,
    "relativistic": lambda real, fake: F.softplus(fake - real),
}
_GENERATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "standard": lambda real, fake: F.softplus(-fake),
    "hinge": lambda real, fake: -fake,
    "lsgan": lambda real, fake: (fake - 1).square(),
    "wgan-gp": lambda real, fake: -fake,
    "relativistic": lambda real, fake: F.softplus(real - fake),
}


def discriminator_loss(name: str, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the scalar discriminator loss ``name``; there are as many real as fake logits."""
    return _DISCRIMINATOR[name](real_logits.float(), fake_logits.float()).mean()


def generator_loss(name: str, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the scalar generator loss ``name``; only ``relativistic`` reads the real logits."""
    return _GENERATOR[name](real_logits.float(), fake_logits.float()).mean()


def gradient_penalty(judge: Callable[[Tensor], Tensor], series: Tensor, centre: float) -> Tensor:
    """Return the gradient penalty: mean of (|gradient of ``judge``| - ``centre``)^2 over ``series`` (B, ...).

    ``centre`` 0 is R1/R2 (Mescheder 2018, eq. 9), 1 is WGAN-GP. ``judge`` maps each series to one scalar (B,).

    The norm of the gradient is computed as the slope of ``judge`` along the gradient's direction, by a central
    difference of `SLOPE_STEP`. With the direction held fixed, norm and slope have the same derivatives with respect to
    the weights, so no second derivative is needed, which fused attention lacks. For normal scores of a year the
    gradient differs from the exact one by about 1e-4 of its norm in single precision.
    """
    inputs = series.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(judge(inputs).sum(), inputs)
    size = slope.flatten(1).norm(dim=1).clamp(min=1e-12)
    step = SLOPE_STEP * slope / size.view(-1, *[1] * (slope.ndim - 1))
    along = (judge(series.detach() + step) - judge(series.detach() - step)) / (2 * SLOPE_STEP)
    return (along - centre).square().mean()


def between(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Interpolate linearly between each fake series (``share`` 0) and its real one (1); ``share`` (B,).

    With random shares these are the points where WGAN-GP computes its penalty.
    """
    return torch.lerp(fake.detach(), real, share.view(-1, *[1] * (real.ndim - 1)))


def alone(tensor: Tensor) -> Tensor:
    """Return ``tensor``, which is its mean over a single worker."""
    return tensor


def kl_divergence(mu: Tensor, logvar: Tensor, free_bits: float) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) in nats: mean over series, sum over dimensions.

    Where the divergence of a series in a dimension is below ``free_bits`` nats, it counts as ``free_bits`` and gets no
    gradient. (Kingma 2016 compares the mean over the batch, which workers would have to exchange first.)
    """
    nats_BZ = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    return torch.where(nats_BZ >= free_bits, nats_BZ, free_bits).sum(1).mean()


def masked_square_error(guess: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """Return the mean over series (B, ...) of each one's mean squared error over its observed values; 0 without any."""
    weight = observed.to(guess.dtype)
    each_B = ((guess - target).square() * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)
    return each_B.mean()


def mode_seeking(first: Tensor, second: Tensor, noise_distance: Tensor) -> Tensor:
    """Return |noise difference| / |series difference| of two samples under one condition (Mao 2019, eq. 3)."""
    apart = (first - second).abs().flatten(1).mean(1)
    return (noise_distance / (apart + 1e-3)).mean()


def cycle(latents: Tensor, cond: Tensor) -> Tensor:
    """Return the mean squared difference, over dimensions, between each group's mean latent and its condition.

    Parameters
    ----------
    latents : Tensor (G, M, Z)
        Latents of M generated series under each of G conditions. Only their mean must match: a group is not one
        household, and its members must stay different.
    cond : Tensor (G, Z)
    """
    return (latents.mean(1) - cond).square().mean()


def diversity(fake: Tensor, real: Tensor, mean_over: MeanOver = alone) -> Tensor:
    """Return the standard deviation between fake series (B, ...) over that between real ones; 0 is mode collapse."""

    def spread(series: Tensor) -> Tensor:
        centre = mean_over(series.mean(0))
        return mean_over((series - centre).square().mean(0)).sqrt().mean()

    return spread(fake) / spread(real).clamp(min=1e-6)
