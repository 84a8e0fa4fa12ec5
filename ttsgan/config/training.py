"""The adversarial loss and the course of training."""

import math
from dataclasses import dataclass

from ttsgan.config.checks import require
from ttsgan.errors import ConfigError

LOSSES = ("standard", "hinge", "lsgan", "wgan-gp", "relativistic")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SHARED = 4
"""Consecutive series of a batch that share one condition, so that the cycle term can average over them."""
FREE_FIELDS = ("training.accumulation", "training.checksum_interval", "training.log_interval")
"""Fields that change no step, but for the masks of dropout: training may go on with others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The adversarial loss and its regularisers."""

    name: str = "relativistic"
    """``standard``, ``hinge``, ``lsgan``, ``wgan-gp`` or ``relativistic``."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty: zero-centred on real and synthetic, or one-centred between them for wgan-gp."""
    penalty_interval: int = 4
    """The penalty is computed every so many discriminator steps, with its weight multiplied by as much."""
    drift: float = 0.0
    """Weight of the squared logits of real series, which keeps a Wasserstein critic near zero."""
    mode_seeking: float = 0.0
    """Weight of the mode-seeking term, which asks that two noises give two series."""
    cycle: float = 1.0
    """Weight of the cycle term: series of one condition encode, on average, to that condition."""

    def __post_init__(self) -> None:
        require(self.name in LOSSES, "loss.name", self.name, ", ".join(LOSSES))
        require(self.penalty_interval >= 1, "loss.penalty_interval", self.penalty_interval, "1 or more")
        for name in ("penalty_weight", "drift", "mode_seeking", "cycle"):
            require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Length, batches, rates, precision and alarms of training."""

    max_series: int = 26_000
    """Series seen in all, over the three stages of training; of the temporal prior's, ``days.crop`` tokens each."""
    encoder_share: float = 0.05
    """Share of ``max_series`` spent on the encoder."""
    days_share: float = 0.92
    """Share of ``max_series`` spent on the temporal prior; the rest trains the generator and discriminator."""
    batch_size: int = 8
    """Series per optimizer step, over all workers."""
    accumulation: int = 1
    """Parts in which each worker goes through its share of a batch, to save memory; the step stays the same, but for
    the masks of dropout."""
    encoder_lr: float = 2e-3
    """Peak learning rate of the encoder."""
    days_lr: float = 3.5e-3
    """Peak learning rate of the temporal prior."""
    generator_lr: float = 5e-4
    """Peak learning rate of the generator."""
    discriminator_lr: float = 2e-4
    """Peak learning rate of the discriminator."""
    warmup: float = 0.05
    """Share of each stage over which its rates rise from zero; they fall as a cosine afterwards."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    grad_clip: float = 1.0
    """Largest norm of a network's gradient; longer ones are shortened."""
    ema_half_life: int = 500
    """Series over which the weight of old parameters in the average falls by half."""
    precision: str = "auto"
    """``fp32``, ``bf16``, ``fp16`` (GPU only) or ``auto``: bf16 where the device has fast bf16 products."""
    checkpoint_interval: int = 3_000
    """Series between two checkpoints."""
    log_interval: int = 480
    """Series between two lines of progress."""
    checksum_interval: int = 50
    """Optimizer steps between two comparisons of the weights over workers, which are compared at the start and before
    each checkpoint too; 0 compares them at the start alone."""
    diversity_floor: float = 0.2
    """Spread between generated series over spread between real ones below which training stops as collapsed."""
    validation_share: float = 0.1
    """Share of the training entities kept apart to choose the prior's best average."""

    def __post_init__(self) -> None:
        counts = ("max_series", "batch_size", "accumulation", "ema_half_life", "checkpoint_interval", "log_interval")
        for name in counts:
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "1 or more")
        for name in ("encoder_lr", "days_lr", "generator_lr", "discriminator_lr", "grad_clip"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "above 0")
        for name in ("encoder_share", "days_share", "warmup", "diversity_floor"):
            require(0 <= getattr(self, name) < 1, f"training.{name}", getattr(self, name), "0 to below 1")
        require(
            0 < self.validation_share <= 0.5,
            "training.validation_share",
            self.validation_share,
            "above 0, to 0.5",
        )
        require(
            self.checksum_interval >= 0,
            "training.checksum_interval",
            self.checksum_interval,
            "0 or more",
        )
        shares = self.encoder_share + self.days_share
        require(shares <= 1, "training.encoder_share + training.days_share", shares, "at most 1")
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        require(self.precision in PRECISIONS, "training.precision", self.precision, ", ".join(PRECISIONS))


def check_batch(training: TrainingConfig, workers: range) -> None:
    """Refuse a global batch that cannot be shared equally, cycle groups whole, by each number of ``workers``.

    Raises
    ------
    ConfigError
        With the batch, the numbers of workers and what is allowed.
    """
    parts = training.accumulation
    unit = math.lcm(*(SHARED * count * parts for count in workers))
    if training.batch_size % unit:
        shown = str(workers[0]) if len(workers) == 1 else f"{workers[0]} to {workers[-1]}"
        each = f", each in {parts} parts (training.accumulation)" if parts > 1 else ""
        near = max(round(training.batch_size / unit), 1) * unit
        raise ConfigError(
            f"training.batch_size is {training.batch_size}; allowed with {shown} workers{each}: a multiple of {unit},"
            f" such as {near}"
        )


def check_precision(precision: str, on_gpu: bool) -> None:
    """Refuse fp16 on a CPU, which is unusably slow there.

    Raises
    ------
    ConfigError
        With what is allowed.
    """
    if precision == "fp16" and not on_gpu:
        raise ConfigError("training.precision is 'fp16' on a CPU; allowed there: auto, fp32, bf16")
