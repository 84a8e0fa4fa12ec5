"""Every loss as a pure function of tensors. Differentiable, no state, no randomness unless a generator is passed.

"Real" and "fake" are used here only: elsewhere it is real and synthetic. Logits are raw outputs of the discriminator,
of any shape; each loss is the mean over them. Names of adversarial losses:

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
from torch.nn.attention import SDPBackend, sdpa_kernel

MeanOver = Callable[[Tensor], Tensor]
"""Averages a tensor over workers; `alone` where there is one."""

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
    """Return the scalar discriminator loss ``name`` of equally many real and fake logits."""
    return _DISCRIMINATOR[name](real_logits.float(), fake_logits.float()).mean()


def generator_loss(name: str, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the scalar generator loss ``name``; only ``relativistic`` reads the real logits."""
    return _GENERATOR[name](real_logits.float(), fake_logits.float()).mean()


def gradient_penalty(judge: Callable[[Tensor], Tensor], series: Tensor, centre: float) -> Tensor:
    """Return the mean of (|gradient| - ``centre``)^2 of ``judge`` at ``series`` (B, ...), the gradient per series.

    ``centre`` 0 is R1/R2 (Mescheder 2018, eq. 9), 1 is WGAN-GP. ``judge`` maps series to logits summed per series (B,).
    Runs attention with the plain kernel: the fused ones have no second derivative.
    """
    with sdpa_kernel(SDPBackend.MATH):
        inputs = series.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(judge(inputs).sum(), inputs, create_graph=True)
    square = slope.flatten(1).square().sum(1)
    return square.mean() if centre == 0 else ((square + 1e-12).sqrt() - centre).square().mean()


def between(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return the point at ``share`` (B,), 0 to 1, on the way from each fake series to its real one.

    With random shares it is WGAN-GP's place of the penalty.
    """
    return torch.lerp(fake.detach(), real, share.view(-1, *[1] * (real.ndim - 1)))


def alone(tensor: Tensor) -> Tensor:
    """Return ``tensor``: its mean over one worker."""
    return tensor


def kl_divergence(mu: Tensor, logvar: Tensor, free_bits: float, mean_over: MeanOver = alone) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) in nats: mean over series, sum over dimensions.

    A dimension whose mean divergence over the whole batch is below ``free_bits`` nats costs that much and gets no
    gradient (Kingma 2016). ``mean_over`` averages over workers.
    """
    per_dimension = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(0)
    spent = mean_over(per_dimension.detach()) >= free_bits
    return torch.where(spent, per_dimension, free_bits).sum()


def masked_square_error(guess: Tensor, target: Tensor, observed: Tensor, mean_over: MeanOver = alone) -> Tensor:
    """Return the mean squared error over observed values only; the mean over workers is that of the whole batch."""
    weight = observed.to(guess.dtype)
    return ((guess - target).square() * weight).sum() / mean_over(weight.sum()).clamp(min=1)


def mode_seeking(first: Tensor, second: Tensor, noise_distance: Tensor) -> Tensor:
    """Return |noise difference| / |series difference| of two draws under one condition (Mao 2019, eq. 3)."""
    apart = (first - second).abs().flatten(1).mean(1)
    return (noise_distance / (apart + 1e-3)).mean()


def cycle(latents: Tensor, cond: Tensor) -> Tensor:
    """Return the squared distance, per dimension, of each group's mean latent from its condition.

    Parameters
    ----------
    latents : Tensor (G, M, Z)
        Latents of M generated series under each of G conditions. Their mean is asked for, not each: a group is not one
        household, and its members must stay apart.
    cond : Tensor (G, Z)
    """
    return (latents.mean(1) - cond).square().mean()


def diversity(fake: Tensor, real: Tensor, mean_over: MeanOver = alone) -> Tensor:
    """Return the spread between fake series (B, ...) over the spread between real ones; 1 is right, 0 is collapse."""

    def spread(series: Tensor) -> Tensor:
        centre = mean_over(series.mean(0))
        return mean_over((series - centre).square().mean(0)).sqrt().mean()

    return spread(fake) / spread(real).clamp(min=1e-6)
