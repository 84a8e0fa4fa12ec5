"""One optimizer step of one phase: only the phase's own networks get gradients and change."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ttsgan.config import TrainingConfig, check_precision
from ttsgan.errors import DivergedError
from ttsgan.losses import MeanOver
from ttsgan.training.runtime import Runtime
from ttsgan.training.state import STAGES, TrainState, stage_series

Loss = Callable[[slice], tuple[Tensor, dict[str, Tensor]]]
"""Computes a phase's loss, a mean over series, and figures to log, on a part of this worker's share of the batch."""

LEAVING = "leaving"
"""Name of the figure of a step that is the share of workers that were asked to stop."""
LEAST_SCALE = 1.0
"""Loss scale below which a lower scale cannot make an overflowing 16-bit gradient finite."""
ROLLBACK_FACTOR = 0.5
"""Factor on the learning rates of a stage for each of its rollbacks."""


class Unstable(DivergedError):
    """A loss or gradient is not finite, or the generator collapsed: all workers raise it in the same step.

    Parameters
    ----------
    what : str
        What happened, and when.
    advice : str
        What to change when lower learning rates do not help.
    """

    def __init__(self, what: str, advice: str) -> None:
        # Both are passed to the base class, so that the exception can be pickled.
        super().__init__(what, advice)
        self.what, self.advice = what, advice

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


def precision_type(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: ``auto`` takes bfloat16 where the hardware supports it natively.

    Raises
    ------
    ConfigError
        For fp16 on a CPU (`check_precision`).
    """
    on_gpu = device.type == "cuda"
    check_precision(precision, on_gpu)
    if precision == "auto":
        # Emulation does not count: old GPUs report bf16 support with it, at a fraction of the speed.
        fast = torch.cuda.is_bf16_supported(False) if on_gpu else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def autocast(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Run matrix products in ``dtype``; float32 changes nothing."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        yield


def rate_factor(config: TrainingConfig, progress: float) -> float:
    """Return the learning rate over its peak at ``progress`` (0 to 1) of a stage: linear warm-up, cosine decay."""
    if progress < config.warmup:
        return progress / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def take_step(state: TrainState, phase: str, loss: Loss, runtime: Runtime) -> dict[str, float]:
    """Take one optimizer step of ``phase``; return the mean figures of ``loss``, gradient norm and rate. Collective.

    Gradients are computed for the phase's networks only, averaged over workers by all-reduce, and clipped. The moving
    averages are then updated. ``training.accumulation`` above 1 accumulates the gradients of the parts of the batch:
    the same step except for dropout masks, with the memory of one part.

    Raises
    ------
    Unstable
        If on any worker the loss is not finite, or a gradient is not finite and the gradient scaler cannot handle it.
        No weight has changed then.
    """
    training, scaler = state.config.training, state.grad_scalers[phase]
    parameters, optimizer = state.parameters[phase], state.optimizers[phase]
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
    for part in parts:
        value, figures = loss(part)
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
        # The gradient scaler skips a step whose gradient overflows 16 bits, and lowers its scale.
        if not torch.isfinite(size) and (what == "loss" or _beyond(scaler)):
            met = f"the {what} of the {phase} is {size.item()} after {state.total_series} series{tried(state)}"
            raise Unstable(met, _advice(state, phase))
    scaler.step(optimizer)
    scaler.update()
    for parameter in parameters:
        parameter.grad = None
    state.averages[phase].update(training.batch_size, state.series_seen + training.batch_size)
    out = dict(zip(named, logged.tolist(), strict=True))
    return {**out, f"gradient_norm/{phase}": float(norm), f"rate/{phase}": optimizer.param_groups[0]["lr"]}


def _beyond(scaler: torch.amp.GradScaler) -> bool:
    """Return whether lowering the loss scale cannot make a non-finite gradient finite."""
    return not scaler.is_enabled() or scaler.get_scale() < LEAST_SCALE


def parts_of_share(training: TrainingConfig, runtime: Runtime) -> list[slice]:
    """Return the rows of each gradient accumulation part of this worker's share of a batch."""
    size = training.batch_size // runtime.world_size // training.accumulation
    return [slice(i * size, (i + 1) * size) for i in range(training.accumulation)]


def mean_over(runtime: Runtime) -> MeanOver:
    """Return a function that averages a tensor over workers, without gradient; calling it is collective."""

    def mean(tensor: Tensor) -> Tensor:
        held = tensor.detach().clone()
        runtime.mean([held])
        return held

    return mean


def tried(state: TrainState) -> str:
    """Return a clause about the rollbacks of the current stage for error messages, empty when there are none."""
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
