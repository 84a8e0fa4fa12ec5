"""Everything that training changes, and how it is kept.

A checkpoint folder holds ``networks.safetensors`` and ``average.safetensors`` (weights), ``drawn.safetensors``
(conditions and the pool of prior draws), ``optimizers.pt`` (loads with ``weights_only=True``) and ``progress.json``.
"""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ttsgan.config import RunConfig, TrainingConfig
from ttsgan.models.networks import Networks, SeriesShape

STAGES = ("encoder", "days", "adversarial")
"""Stages of training, in order; each has its own networks, and those before it are frozen."""


def stage_series(config: TrainingConfig, stage: str) -> int:
    """Return the series seen in ``stage``, a whole number of batches."""
    share = {"encoder": config.encoder_share, "days": config.days_share}
    share["adversarial"] = 1 - config.encoder_share - config.days_share
    return round(share[stage] * config.max_series / config.batch_size) * config.batch_size


class TrainState:
    """Networks, their averages, optimizers and progress.

    Attributes
    ----------
    networks, average : Networks
        As trained, and their running averages, which alone are sampled.
    stage : int
        Index into `STAGES`; one past the last when training is done.
    series_seen : int
        Series seen in this stage.
    drawn : dict of Tensor
        ``cond`` (G, M, Z): condition of each training series under G groupings; ``pool_*``: draws of the prior.
    best_loss : float
        Smallest validation loss of the temporal prior so far.
    """

    def __init__(self, config: RunConfig, shape: SeriesShape, device: torch.device) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.networks = Networks(config, shape).to(device)
        self.average = copy.deepcopy(self.networks).eval().requires_grad_(False)
        self.networks.requires_grad_(False)
        self.optimizers = {name: self._optimizer(name) for name in self.trained_modules()}
        self.stage, self.series_seen = 0, 0
        self.drawn: dict[str, Tensor] = {}
        self.best_loss = float("inf")

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        """Return the modules that each phase trains."""
        n = self.networks
        return {
            "encoder": [n.encoder, n.decoder],
            "days": [n.days],
            "discriminator": [n.discriminator],
            "generator": [n.generator],
        }

    def parameters_of(self, phase: str) -> list[nn.Parameter]:
        """Return the parameters that ``phase`` trains."""
        return [p for module in self.trained_modules()[phase] for p in module.parameters()]

    def _optimizer(self, phase: str) -> torch.optim.AdamW:
        training = self.config.training
        betas = (0.0, 0.99) if phase in ("discriminator", "generator") else (0.9, 0.99)
        rate = getattr(training, f"{phase}_lr")
        return torch.optim.AdamW(self.parameters_of(phase), lr=rate, betas=betas, weight_decay=training.weight_decay)

    @property
    def done(self) -> bool:
        """Whether every stage has been trained."""
        return self.stage >= len(STAGES)

    @property
    def total_series(self) -> int:
        """Series seen over all stages."""
        before = sum(stage_series(self.config.training, stage) for stage in STAGES[: self.stage])
        return before + self.series_seen

    # ---- kept ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write a checkpoint into an empty folder."""
        save_file(_contiguous(self.networks.state_dict()), folder / "networks.safetensors")
        save_file(_contiguous(self.average.state_dict()), folder / "average.safetensors")
        save_file(_contiguous(self.drawn), folder / "drawn.safetensors")
        torch.save({name: o.state_dict() for name, o in self.optimizers.items()}, folder / "optimizers.pt")
        progress = {"stage": self.stage, "series_seen": self.series_seen, "best_loss": repr(self.best_loss)}
        (folder / "progress.json").write_text(json.dumps(progress))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint that `save` wrote with the same configuration."""
        self.networks.load_state_dict(load_file(folder / "networks.safetensors"))
        self.average.load_state_dict(load_file(folder / "average.safetensors"))
        device = next(self.networks.parameters()).device
        self.drawn = {name: tensor.to(device) for name, tensor in load_file(folder / "drawn.safetensors").items()}
        states = torch.load(folder / "optimizers.pt", weights_only=True)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(states[name])
        progress = json.loads((folder / "progress.json").read_text())
        self.stage, self.series_seen = progress["stage"], progress["series_seen"]
        self.best_loss = float(progress["best_loss"])


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
