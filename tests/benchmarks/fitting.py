"""Training in pieces: stop before a stage, continue from the finished stages of another training, draw, read figures.

So trainings that differ only in a late stage share the early ones. They inherit the averaged weights, which are all
that later stages use of earlier ones, so a training in pieces ends as one from the beginning would.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from ladder import sample
from torch import nn

from ttsgan.api import TTSGAN, closeness, closeness_rows, fit_scaler
from ttsgan.clustering import form_groups
from ttsgan.config import RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.evaluation.judged import Judged
from ttsgan.trained_model import Model
from ttsgan.training.dataset import TrainSet, build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime
from ttsgan.training.state import STAGES, TrainState
from ttsgan.training.transitions import Score

AUTOENCODER = ("encoder", "decoder")
EARLIER = (*AUTOENCODER, "household", "days")
"""Networks that are trained before the adversarial stage; of these, the autoencoder is trained before the days."""


@dataclass(frozen=True)
class Ready:
    """Training series with their scaler and the score that chooses the share of the correction."""

    train: Judged
    scaler: SeriesScaler
    data: TrainSet
    score: Score


def make_ready(train: Judged, config: RunConfig) -> Ready:
    """Scale training series as `TTSGAN.fit` does."""
    scaler = fit_scaler(train.values, train.starts, train.step_seconds, config, train.entities)
    data = build_train_set(train.values, train.starts, train.entities, scaler, config)
    score = closeness(*map(train.take, closeness_rows(train.entities, config.seed)), config.seed)
    return Ready(train, scaler, data, score)


class Figures:
    """Replaces the telemetry: keeps the newest value of every figure."""

    def __init__(self) -> None:
        self.newest: dict[str, float] = {}
        self.rollbacks = 0

    def report(self, stage: str, series_seen: int, figures: dict[str, float], doing: str = "") -> None:
        """Keep the figures, and count the rollbacks."""
        self.newest |= figures
        self.rollbacks += "rate_factor" in figures

    def picture(self, *_: object) -> None:
        """Draw nothing."""


class Silent(nn.Module):
    """Replaces a branch of the generator and adds nothing."""

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Return zeros in the shape of the tokens."""
        return torch.zeros_like(x_BND)


class Reached(Exception):
    """Raised when training reaches the stage before which it is to stop."""


class Training(Trainer):
    """A training in pieces.

    Parameters
    ----------
    ready : Ready
    config : RunConfig
    parent : TrainState, optional
        Continue after its finished stages; its networks of `EARLIER` must have the shapes of this configuration.
    silent : sequence of str
        Branches of the generator that add nothing.
    """

    def __init__(
        self, ready: Ready, config: RunConfig, parent: TrainState | None = None, silent: Sequence[str] = ()
    ) -> None:
        self.figures, self.ready, self.before = Figures(), ready, ""
        super().__init__(config, ready.data, ready.scaler, LocalRuntime(), self.figures, ready.score)
        for networks in (self.state.networks, self.state.average):
            for name in silent:
                networks.generator.branches[name] = Silent()
        if parent is not None:
            self._inherit(parent)

    def _inherit(self, parent: TrainState) -> None:
        state, known = self.state, dict(parent.average.named_buffers(recurse=False))
        # Conditions, and with them the household model, are made when the days begin.
        made = EARLIER if STAGES[parent.stage] == "adversarial" else AUTOENCODER
        for networks in (state.networks, state.average):
            for name in made:
                networks.get_submodule(name).load_state_dict(parent.average.get_submodule(name).state_dict())
            for name, buffer in networks.named_buffers(recurse=False):
                buffer.copy_(known[name])
        state.stage, state.best_loss, state.drawn = parent.stage, parent.best_loss, dict(parent.drawn)
        if self.config.generator.noise != "prior":
            state.drawn.pop("pool_base", None)

    def advance(self, before: str = "") -> TrainState:
        """Train up to, not including, the stage ``before``; by default to the end. Call once for each training."""
        self.before = before
        with suppress(Reached):
            self.train()
        return self.state

    def _enter(self) -> None:
        if self._stage != "adversarial" or "pool_cond" not in self.state.drawn:
            super()._enter()

    def _save(self) -> None:
        super()._save()
        if self.state.series_seen == 0 and not self.state.done and self._stage == self.before:
            raise Reached

    def fill_pool(self) -> TrainState:
        """Draw the pool of the adversarial stage, for all trainings that inherit it."""
        assert self._stage == "adversarial"
        self._enter()
        return self.state

    @property
    def share(self) -> float:
        """Share of the correction that is written."""
        return float(self.state.average.correction)

    def draw(self, count: int, share: float | None = None) -> Judged:
        """Draw ``count`` series, with ``share`` of the correction if given."""
        chosen, state, train = self.share, self.state, self.ready.train
        if share is not None:
            state.average.correction.fill_(share)
        model = TTSGAN(self.config)
        model.model_ = Model(state.average, self.ready.scaler, self.config)
        model.starts_ = train.starts
        latents = model.model_.encode(train.values, train.starts)
        groups = form_groups(train.entities, latents, self.ready.data.level, self.config.cluster, self.config.seed)
        model.cond_, model.member_groups_ = groups.conditions.cond, groups.members.group_id
        made = sample(model, train, count)
        state.average.correction.fill_(chosen)
        return made


def stage_lengths(config: RunConfig, **series: int) -> list[str]:
    """Return the overrides that set the series of the stages ``encoder``, ``days`` and ``adversarial``.

    Stages that are not named keep the number that ``config`` gives them.
    """
    training = config.training
    shares = {"encoder": training.encoder_share, "days": training.days_share}
    shares["adversarial"] = 1 - sum(shares.values())
    lengths = {stage: series.get(stage, round(share * training.max_series)) for stage, share in shares.items()}
    total = sum(lengths.values())
    # Rounded down, because the two shares must not add up to more than 1.
    parts = [math.floor(1e9 * lengths[stage] / total) / 1e9 for stage in ("encoder", "days")]
    return [
        f"training.max_series={total}", f"training.encoder_share={parts[0]!r}", f"training.days_share={parts[1]!r}",
    ]  # fmt: skip


def spread(values: np.ndarray) -> float:
    """Return the mean over time of the spread between series (n, C, L), each divided by the mean of all."""
    return float(np.nanstd(values, axis=0).mean() / np.nanmean(np.abs(values)))
