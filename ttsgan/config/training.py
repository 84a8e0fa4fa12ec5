"""Settings of the adversarial loss and of training."""

import math
from dataclasses import dataclass

from ttsgan.config.checks import require, require_least, require_share
from ttsgan.errors import ConfigError

LOSSES = ("standard", "hinge", "lsgan", "wgan-gp", "relativistic")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SHARED = 4
"""Consecutive series of a batch that share one condition, so that the cycle term can average over them."""
FREE_FIELDS = ("training.accumulation", "training.checksum_interval", "training.log_interval")
"""Fields that change no step except for its dropout masks; a resumed run may change them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The adversarial loss and its regularisers."""

    name: str = "relativistic"
    """``standard``, ``hinge``, ``lsgan``, ``wgan-gp`` or ``relativistic``."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty, 0 or more; zero-centred at real and synthetic series, but for wgan-gp one-centred
    between them."""
    penalty_interval: int = 4
    """Discriminator steps from one gradient penalty to the next, which is multiplied by this number; 1 or more."""
    drift: float = 0.0
    """Weight of the squared logits of real series, which keeps a Wasserstein critic near zero; 0 or more."""
    mode_seeking: float = 0.0
    """Weight of the mode-seeking term, which rewards different series for different noise; 0 or more."""
    cycle: float = 1.0
    """Weight of the cycle term: series of one condition must encode, on average, to that condition; 0 or more."""

    def __post_init__(self) -> None:
        require_least(self, "loss", 1, "penalty_interval")
        require(self.name in LOSSES, "loss.name", self.name, ", ".join(LOSSES))
        require_least(self, "loss", 0, "penalty_weight", "drift", "mode_seeking", "cycle")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Duration, batches, learning rates, precision and safeguards of training."""

    max_series: int = 26_000
    """Series seen in all three stages of training together, 1 or more; for the temporal prior a series is a crop of
    ``days.crop`` tokens."""
    encoder_share: float = 0.05
    """Share of ``max_series`` spent on the encoder; 0 to below 1."""
    days_share: float = 0.92
    """Share of ``max_series`` spent on the temporal prior, 0 to below 1; the rest trains the generator and
    discriminator."""
    batch_size: int = 8
    """Series per optimizer step, over all workers; a multiple of `SHARED` * workers * ``accumulation`` (see
    `check_batch`)."""
    accumulation: int = 1
    """Gradient accumulation: parts into which each worker splits its share of a batch, to save memory; 1 or more. Only
    the dropout masks of the step change."""
    encoder_lr: float = 2e-3
    """Peak learning rate of the encoder; above 0."""
    days_lr: float = 5e-3
    """Peak learning rate of the temporal prior; above 0."""
    generator_lr: float = 5e-4
    """Peak learning rate of the generator; above 0."""
    discriminator_lr: float = 2e-4
    """Peak learning rate of the discriminator; above 0."""
    warmup: float = 0.05
    """Share of each stage with linear warm-up of the learning rates from zero, 0 to below 1; cosine decay follows."""
    weight_decay: float = 0.01
    """AdamW weight decay; 0 or more."""
    grad_clip: float = 1.0
    """Largest norm of the gradient of a phase, above 0; a larger gradient is scaled down to it."""
    ema_half_life: int = 500
    """Half-life of the exponential moving average of the weights, in series; 1 or more."""
    precision: str = "auto"
    """Precision of matrix products: ``fp32``, ``bf16``, ``fp16`` (GPU only) or ``auto``: bf16 where the device has fast
    bf16 products, fp32 elsewhere."""
    checkpoint_interval: int = 3_000
    """Series between two checkpoints; 1 or more."""
    log_interval: int = 480
    """Series between two progress reports; 1 or more."""
    checksum_interval: int = 50
    """Optimizer steps between two comparisons of the weights across workers. They are also compared at the start and
    before each checkpoint; 0 compares them at the start only."""
    diversity_floor: float = 0.2
    """Least ratio of the spread between generated series to that between real ones, 0 to below 1; below it the
    generator counts as collapsed."""
    validation_share: float = 0.1
    """Share of the training entities kept for validation, to choose the prior's best average; above 0, to 0.5."""

    def __post_init__(self) -> None:
        counts = ("max_series", "batch_size", "accumulation", "ema_half_life", "checkpoint_interval", "log_interval")
        require_least(self, "training", 1, *counts)
        require_least(self, "training", 0, "checksum_interval", "weight_decay")
        for name in ("encoder_lr", "days_lr", "generator_lr", "discriminator_lr", "grad_clip"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "above 0")
        require_share(self, "training", "encoder_share", "days_share", "warmup", "diversity_floor")
        require(
            0 < self.validation_share <= 0.5,
            "training.validation_share",
            self.validation_share,
            "above 0, to 0.5",
        )
        shares = self.encoder_share + self.days_share
        require(shares <= 1, "training.encoder_share + training.days_share", shares, "at most 1")
        require(self.precision in PRECISIONS, "training.precision", self.precision, ", ".join(PRECISIONS))


def check_batch(training: TrainingConfig, workers: range) -> None:
    """Refuse a global batch that cannot be split equally, cycle groups intact, for each number of ``workers``.

    Raises
    ------
    ConfigError
        Names the batch size, the numbers of workers and the allowed values.
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
    """Refuse fp16 on a CPU, where it is unusably slow.

    Raises
    ------
    ConfigError
        Names the allowed values.
    """
    if precision == "fp16" and not on_gpu:
        raise ConfigError("training.precision is 'fp16' on a CPU; allowed there: auto, fp32, bf16")
