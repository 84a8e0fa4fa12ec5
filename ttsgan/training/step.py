"""One optimizer step of one phase: only its own networks get gradients, and only they move."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ttsgan.config import TrainingConfig, check_precision
from ttsgan.errors import DivergedError
from ttsgan.losses import MeanOver
from ttsgan.models.ema import update_average
from ttsgan.training.runtime import Runtime
from ttsgan.training.state import STAGES, TrainState, stage_series

Loss = Callable[[slice, MeanOver], tuple[Tensor, dict[str, Tensor]]]
"""Computes a phase's loss and the figures to log of a part of this worker's share of the batch.

What it needs of the whole batch, such as a count to divide by, it asks its second argument for.
"""

LEAVING = "leaving"
"""Among the figures of a step: the share of workers that were asked to stop."""
LEAST_SCALE = 1.0
"""A gradient that is too long for 16 bits at a scale below this one does not get shorter by a lower scale."""
ROLLBACK_FACTOR = 0.5
"""What the rates of a stage are multiplied by each time that it goes back to a checkpoint."""


class Unstable(DivergedError):
    """A loss or gradient is not finite, or the generator collapsed: all workers raise it in the same step.

    Parameters
    ----------
    what : str
        What was met, and when.
    advice : str
        What to change when lower rates do not help.
    """

    def __init__(self, what: str, advice: str) -> None:
        # Both are arguments of the base class, so that it pickles.
        super().__init__(what, advice)
        self.what, self.advice = what, advice

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


def precision_type(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of matrix products: ``auto`` takes bfloat16 where the hardware multiplies it fast.

    Raises
    ------
    ConfigError
        As `check_precision`.
    """
    on_gpu = device.type == "cuda"
    check_precision(precision, on_gpu)
    if precision == "auto":
        # Without emulation, which old cards answer for, at a fraction of the speed.
        fast = torch.cuda.is_bf16_supported(False) if on_gpu else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def autocast(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Run matrix products in ``dtype``; float32 changes nothing."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        yield


def rate_factor(config: TrainingConfig, progress: float) -> float:
    """Return the share of the peak rate at ``progress`` (0 to 1) of a stage: linear rise, then half a cosine."""
    if progress < config.warmup:
        return progress / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def take_step(state: TrainState, phase: str, loss: Loss, runtime: Runtime, asks: bool) -> dict[str, float]:
    """Zero, enable, differentiate, average over workers, clip, step, disable; return the figures of ``loss``.

    Collective. Networks of other phases are left without gradients. With ``training.accumulation`` gradients of one
    part of the batch after another are added up: the same step (dropout draws other masks), with the memory of a part.
    A loss that ``asks`` for means over the batch is then computed twice, because its first part needs those of the
    last.

    Raises
    ------
    Unstable
        If the loss, or a gradient that no scaler can make good, is not finite on any worker. Nothing has moved then.
    """
    training, scaler = state.config.training, state.grad_scalers[phase]
    parameters, optimizer = state.parameters_of(phase), state.optimizers[phase]
    stage = STAGES[state.stage]
    progress = (state.series_seen + 0.5 * training.batch_size) / max(stage_series(training, stage), 1)
    for group in optimizer.param_groups:
        peak = getattr(training, f"{phase}_lr") * ROLLBACK_FACTOR**state.rollbacks
        group["lr"] = peak * rate_factor(training, progress)
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    told = []
    parts = parts_of_share(training, runtime)
    means = _means_over_parts(loss, parts, runtime) if asks and len(parts) > 1 else None
    for part in parts:
        value, figures = loss(part, mean_over(runtime) if means is None else _Given(means))
        scaler.scale(value / len(parts)).backward()
        told.append({f"loss/{phase}": value.detach(), **figures})
    for parameter in parameters:
        parameter.requires_grad_(False)
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    named = {name: torch.stack([one[name].detach().float() for one in told]).mean() for name in told[0]}
    named[LEAVING] = torch.tensor(float(runtime.leaving), device=runtime.device)
    logged = torch.stack(list(named.values()))
    runtime.mean([p.grad for p in parameters] + [logged])
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, training.grad_clip)
    for what, size in (("loss", logged[0]), ("gradient", norm)):
        # A gradient scaler skips a step with a gradient too long for 16 bits, and lowers its scale.
        if not torch.isfinite(size) and (what == "loss" or _beyond(scaler)):
            met = f"the {what} of the {phase} is {size.item()} after {state.total_series} series{tried(state)}"
            raise Unstable(met, _advice(state, phase))
    scaler.step(optimizer)
    scaler.update()
    for parameter in parameters:
        parameter.grad = None
    for module in state.trained_modules()[phase]:
        average = state.average.get_submodule(_name_of(state, module))
        seen = state.series_seen + training.batch_size
        update_average(average, module, training.batch_size, seen, training.ema_half_life)
    out = dict(zip(named, logged.tolist(), strict=True))
    return {**out, f"gradient_norm/{phase}": float(norm), f"rate/{phase}": optimizer.param_groups[0]["lr"]}


def _beyond(scaler: torch.amp.GradScaler) -> bool:
    """Tell whether a gradient that is not finite cannot be made good by a scaler."""
    return not scaler.is_enabled() or scaler.get_scale() < LEAST_SCALE


def parts_of_share(training: TrainingConfig, runtime: Runtime) -> list[slice]:
    """Return the rows of this worker's share of a batch that are worked on together, part by part."""
    size = training.batch_size // runtime.world_size // training.accumulation
    return [slice(i * size, (i + 1) * size) for i in range(training.accumulation)]


def mean_over(runtime: Runtime) -> MeanOver:
    """Return what averages a tensor over workers, without gradient. Collective."""

    def mean(tensor: Tensor) -> Tensor:
        held = tensor.detach().clone()
        runtime.mean([held])
        return held

    return mean


@torch.no_grad()
def _means_over_parts(loss: Loss, parts: list[slice], runtime: Runtime) -> list[Tensor]:
    """Return the means over all parts of all workers that ``loss`` asks for, in the order in which it does."""
    asked: list[list[Tensor]] = []
    for part in parts:
        held: list[Tensor] = []
        loss(part, lambda tensor, held=held: held.append(tensor.detach().clone()) or tensor)
        asked.append(held)
    means = [torch.stack(same).mean(0) for same in zip(*asked, strict=True)]
    runtime.mean(means)
    return means


class _Given:
    """Answers a loss that asks for means with those that were found before, in the same order."""

    def __init__(self, means: list[Tensor]) -> None:
        self.left = iter(means)

    def __call__(self, tensor: Tensor) -> Tensor:
        return next(self.left)


def tried(state: TrainState) -> str:
    """Return words for what a stage has tried against its divergence, or nothing."""
    if not state.rollbacks:
        return ""
    return f", after {state.rollbacks} rollbacks, each with rates {ROLLBACK_FACTOR:g} times those before"


def _advice(state: TrainState, phase: str) -> str:
    training = state.config.training
    ways = [f"lower training.{phase}_lr (now {getattr(training, f'{phase}_lr'):g})"]
    if phase in ("discriminator", "generator"):
        ways.append("raise loss.penalty_weight")
    if training.precision != "fp32":
        ways.append("set training.precision=fp32")
    return f"{', or '.join(ways)}, and start over"


def _name_of(state: TrainState, module: torch.nn.Module) -> str:
    return next(name for name, child in state.networks.named_children() if child is module)
