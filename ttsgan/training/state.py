"""The state of training, and its checkpoints.

A checkpoint folder holds ``networks.safetensors`` and ``average.safetensors`` (weights), ``drawn.safetensors``
(conditions, the pool of prior samples and the prior's best average), ``optimizers.pt`` (loads with
``weights_only=True``), ``progress.json`` and ``config.json``.
"""

import copy
import io
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ttsgan import recipes
from ttsgan.config import FREE_FIELDS, RunConfig, TrainingConfig
from ttsgan.data.storage import one_line
from ttsgan.errors import ConfigError, DataError
from ttsgan.models.ema import MovingAverage
from ttsgan.models.networks import Networks, SeriesShape
from ttsgan.training.runtime import patiently

log = logging.getLogger(__name__)

STAGES = ("encoder", "days", "adversarial")
"""Stages of training, in order; each trains its own networks, and those of earlier stages are frozen."""
TRAINED = {
    "encoder": ("encoder", "decoder"), "days": ("days",), "discriminator": ("discriminator",),
    "generator": ("generator",),
}  # fmt: skip
"""Networks that each phase trains."""
COSTS = {"encoder": 1.0, "days": 1.0, "adversarial": 4.0}
"""Approximate relative cost of a series in each stage, to estimate the remaining time."""
CHECKED_SECTIONS = (
    "seed", "patch", "encoder", "household", "days", "generator", "discriminator", "loss", "training", "cluster",
)  # fmt: skip
"""Parts of the configuration that must not change when training resumes from a checkpoint."""


def total_series(config: TrainingConfig) -> int:
    """Return the series seen over all stages, each a whole number of batches."""
    return sum(stage_series(config, stage) for stage in STAGES)


def stage_series(config: TrainingConfig, stage: str) -> int:
    """Return the series seen in ``stage``, a whole number of batches."""
    share = {"encoder": config.encoder_share, "days": config.days_share}
    share["adversarial"] = 1 - config.encoder_share - config.days_share
    return round(share[stage] * config.max_series / config.batch_size) * config.batch_size


def work_left(config: TrainingConfig, stage: str, series_seen: int) -> float:
    """Return the work left after ``series_seen`` series of all stages, in series of ``stage``."""
    left, end = 0.0, 0
    for name in STAGES:
        size = stage_series(config, name)
        end += size
        left += COSTS[name] * min(size, max(0, end - series_seen))
    return left / COSTS[stage]


class TrainState:
    """Networks, their averages, optimizers and progress.

    Attributes
    ----------
    dtype : torch.dtype
        Of matrix products.
    series : str
        Digest of the training series and their scaler.
    networks, average : Networks
        The trained networks, and their exponential moving averages, which alone are sampled.
    parameters : dict of list of Parameter
        The parameters that each phase trains.
    averages : dict of MovingAverage
        Of the networks that each phase trains.
    stage : int
        Index into `STAGES`; one past the last when training is done.
    series_seen : int
        Series seen in this stage.
    drawn : dict of Tensor
        ``cond`` (G, M, Z): condition of each training series under G groupings; ``pool_*``: samples of the prior;
        ``best.*``: weights of the prior's best average.
    rollbacks : int
        Rollbacks of this stage to a checkpoint because it diverged; each halves its learning rates.
    best_loss : float
        Smallest validation loss of the temporal prior so far.
    diversity : float
        Exponential moving average of the spread of generated series over that of real ones.
    """

    def __init__(
        self, config: RunConfig, shape: SeriesShape, device: torch.device, dtype: torch.dtype, series: str
    ) -> None:
        self.config, self.dtype, self.series = config, dtype, series
        torch.manual_seed(config.seed)
        self.networks = Networks(config, shape).to(device)
        self.average = copy.deepcopy(self.networks).eval().requires_grad_(False)
        self.networks.requires_grad_(False)
        self.parameters: dict[str, list[nn.Parameter]] = {}
        self.optimizers: dict[str, torch.optim.AdamW] = {}
        self.averages: dict[str, MovingAverage] = {}
        for phase, names in TRAINED.items():
            averages, trained = ([side.get_submodule(n) for n in names] for side in (self.average, self.networks))
            self.parameters[phase] = [p for network in trained for p in network.parameters()]
            self.optimizers[phase] = self._optimizer(phase)
            self.averages[phase] = MovingAverage(averages, trained, config.training.ema_half_life)
        self.grad_scalers = {
            name: torch.amp.GradScaler(device.type, enabled=dtype == torch.float16) for name in self.optimizers
        }
        self.stage, self.series_seen, self.rollbacks = 0, 0, 0
        self.drawn: dict[str, Tensor] = {}
        self.best_loss, self.diversity = float("inf"), 1.0

    def _optimizer(self, phase: str) -> torch.optim.AdamW:
        training = self.config.training
        betas = (0.0, 0.99) if phase in ("discriminator", "generator") else (0.9, 0.99)
        rate, decay = getattr(training, f"{phase}_lr"), training.weight_decay
        # Fused: small batches take many steps, and an update parameter by parameter costs six times as much.
        return torch.optim.AdamW(self.parameters[phase], lr=rate, betas=betas, weight_decay=decay, fused=True)

    @property
    def done(self) -> bool:
        """Whether every stage has been trained."""
        return self.stage >= len(STAGES)

    @property
    def total_series(self) -> int:
        """Series seen over all stages."""
        before = sum(stage_series(self.config.training, stage) for stage in STAGES[: self.stage])
        return before + self.series_seen

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def files(self) -> dict[str, bytes]:
        """Return a checkpoint as named files; `restore` reads them."""
        states = {"optimizers": self.optimizers, "grad_scalers": self.grad_scalers}
        held = io.BytesIO()
        torch.save({kind: {name: o.state_dict() for name, o in group.items()} for kind, group in states.items()}, held)
        progress = {
            "stage": self.stage,
            "series_seen": self.series_seen,
            "rollbacks": self.rollbacks,
            "best_loss": repr(self.best_loss),
            "diversity": repr(self.diversity),
            "dtype": str(self.dtype),
            "series": self.series,
        }
        return {
            "networks.safetensors": _packed(self.networks.state_dict()),
            "average.safetensors": _packed(self.average.state_dict()),
            "drawn.safetensors": _packed(self.drawn),
            "optimizers.pt": held.getvalue(),
            "progress.json": json.dumps(progress).encode(),
            "config.json": json.dumps(recipes.to_dict(self.config), indent=2).encode(),
        }

    def restore(self, files: dict[str, bytes]) -> None:
        """Restore the state from what `files` returned."""
        self.networks.load_state_dict(load_tensors(files["networks.safetensors"]))
        self.average.load_state_dict(load_tensors(files["average.safetensors"]))
        device = next(self.networks.parameters()).device
        self.drawn = {name: tensor.to(device) for name, tensor in load_tensors(files["drawn.safetensors"]).items()}
        # To the CPU first: a checkpoint written on a GPU can be resumed on a CPU, and the other way round.
        states = torch.load(io.BytesIO(files["optimizers.pt"]), map_location="cpu", weights_only=True)
        for kind, group in (("optimizers", self.optimizers), ("grad_scalers", self.grad_scalers)):
            for name, holder in group.items():
                holder.load_state_dict(states[kind][name])
        progress = json.loads(files["progress.json"])
        self.stage, self.series_seen = progress["stage"], progress["series_seen"]
        self.rollbacks = progress["rollbacks"]
        self.best_loss, self.diversity = float(progress["best_loss"]), float(progress["diversity"])

    def load(self, folder: Path) -> None:
        """Restore the state from a checkpoint folder that holds what `files` returned.

        Raises
        ------
        ConfigError
            If it was written with another configuration of the networks or of training, or for other series.
        DataError
            If it was written by another version of this package.
        """
        was, now = (_settings(c) for c in (json.loads((folder / "config.json").read_text()), self.config))
        different = [name for name in now if was.get(name) != now[name]]
        if different:
            name = different[0]
            raise ConfigError(
                f"checkpoint {folder.name} was written with {name} = {was.get(name)!r}, now it is {now[name]!r}; "
                "start over, or go back to the old setting"
            )
        files = patiently(lambda: {p.name: p.read_bytes() for p in folder.iterdir()}, f"read {folder}")
        progress = json.loads(files["progress.json"])
        if progress.get("series") != self.series:
            raise ConfigError(
                f"checkpoint {folder.name} is of other training series than these, or of a scaler that was fitted on "
                "another machine; start over"
            )
        if progress["dtype"] != str(self.dtype):
            log.warning(
                "%s was trained in %s; on this kind of machine training goes on in %s (training.precision = %s)",
                folder.name, progress["dtype"], self.dtype, self.config.training.precision,
            )  # fmt: skip
        try:
            self.restore(files)
        except (RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(
                f"checkpoint {folder.name} is whole and of other networks than these ({one_line(error, 160)}): it is of"
                " another version of ttsgan; start over"
            ) from error


def _settings(config: RunConfig | dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a checkpoint depends on, by dotted name."""
    whole = recipes.flat(recipes.from_dict(config) if isinstance(config, dict) else config)
    return {
        name: value
        for name, value in whole.items()
        if name.split(".")[0] in CHECKED_SECTIONS and name not in FREE_FIELDS
    }


def _packed(tensors: dict[str, Tensor]) -> bytes:
    return save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
