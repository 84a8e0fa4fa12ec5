"""The training loop: three stages, each a sequence of equal steps, with checkpoints between them.

encoder      the variational autoencoder; then its latents are grouped, and the groups give the conditions
days         the temporal prior, by maximum likelihood; the EMA weights with the best validation loss are kept
adversarial  discriminator and generator in turn, on samples of the prior; then the share of the correction is chosen

A stage that diverges (a loss or gradient that is not finite, or a collapsed generator) rolls back to the last
checkpoint, with its learning rates halved and other batches and noise, up to `MAX_ROLLBACKS` times. Every worker holds
that checkpoint in memory, and all detect the divergence in the same step, so that no message is needed. A run that is
interrupted and resumed takes the same steps to the same rollback, except that the checkpoint saved on a requested stop
is one more to roll back to.
"""

import logging

import torch
from numpy.typing import NDArray

from ttsgan import losses
from ttsgan.config import SHARED, RunConfig, check_batch
from ttsgan.data.scaling import SeriesScaler
from ttsgan.models.patching import unpatchify
from ttsgan.seeds import seed_of
from ttsgan.training import phases, transitions
from ttsgan.training.consistency import check_equal, check_same_run, series_digest
from ttsgan.training.dataset import StepRandom, TrainSet, batch_rows
from ttsgan.training.profiling import profiled
from ttsgan.training.runtime import Runtime, Stopped
from ttsgan.training.state import STAGES, TrainState, stage_series
from ttsgan.training.step import (
    LEAVING,
    ROLLBACK_FACTOR,
    Loss,
    Unstable,
    autocast,
    mean_over,
    parts_of_share,
    precision_type,
    take_step,
    tried,
)
from ttsgan.training.telemetry import Telemetry

log = logging.getLogger(__name__)

VALIDATIONS = 8
"""Validations of the prior during its stage."""
VALIDATED = 128
"""Most series used in a validation; they belong to entities kept for validation."""
SCORES, SCORED = 4, 128
"""Equal parts of the adversarial stage, with a score of the averaged generator at the end of each; series per score.

A score takes about half a second for series of 2,190 points, all together 1 % of the ``quick`` recipe's training.
"""
DRAWN = 2
"""Times that series are sampled from the prior in its stage, to be scored and plotted; each with a validation."""
UNKNOWN_LOSS = 1e6
"""Reported as validation loss before the first one is known; a hyperparameter search does not compare it."""
ALARM_AFTER = 0.25
"""Share of the adversarial stage after which a lack of diversity counts as a collapse."""
MAX_ROLLBACKS = 3
"""Most rollbacks of a stage before training gives up."""


class Trainer:
    """Trains one `TrainState` on one `TrainSet`; every worker runs one trainer.

    Parameters
    ----------
    config : RunConfig
    data : TrainSet
    scaler : SeriesScaler
        The scaler that made ``data``.
    runtime : Runtime
    telemetry : Telemetry
    score : Score or None
        Scores synthetic series in physical units, to choose the share of the generator's correction and to report
        progress; only rank 0 needs it.
    """

    def __init__(
        self,
        config: RunConfig,
        data: TrainSet,
        scaler: SeriesScaler,
        runtime: Runtime,
        telemetry: Telemetry,
        score: transitions.Score | None = None,
    ) -> None:
        check_batch(config.training, range(runtime.world_size, runtime.world_size + 1))
        data = data.to(runtime.device)
        self.config, self.data, self.scaler = config, data, scaler
        self.runtime, self.telemetry, self.score = runtime, telemetry, score
        self.dtype = precision_type(config.training.precision, runtime.device)
        self.state = TrainState(config, data.shape, runtime.device, self.dtype, series_digest(data, scaler))
        self.state.networks.fit_numbers(data.numbers)
        self.state.average.fit_numbers(data.numbers)
        self.fitted_rows = torch.nonzero(~data.validation)[:, 0]
        self.last_good: dict[str, bytes] = {}

    def train(self) -> TrainState:
        """Train to the end, from the newest checkpoint or from the start. Collective.

        Raises
        ------
        ConfigError
            If workers have different settings or series.
        Stopped
            If a worker was asked to stop; a checkpoint of the last step was saved.
        NotKept
            If a checkpoint could not be written.
        DivergedError
            If a stage still diverges after `MAX_ROLLBACKS` rollbacks, or workers hold different weights.
        """
        check_same_run(self.config, self.data, self.dtype, self.runtime)
        with self.runtime.latest() as folder:
            if folder is None:
                self.runtime.broadcast(list(self.state.networks.state_dict().values()))
                self.state.average.load_state_dict(self.state.networks.state_dict())
            else:
                self.state.load(folder)
                log.info("training goes on from %s series", self.state.total_series)
        check_equal(self.state, self.runtime)
        self.last_good = self.state.files()
        while not self.state.done:
            if self.state.series_seen == 0:
                self._enter()
            try:
                self._run_stage()
            except Unstable as error:
                self._roll_back(error)
                continue
            self._leave()
            self.state.stage, self.state.series_seen, self.state.rollbacks = self.state.stage + 1, 0, 0
            self._save()
        return self.state

    def _roll_back(self, error: Unstable) -> None:
        rollbacks = self.state.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise error
        self.state.restore(self.last_good)
        self.state.rollbacks = rollbacks
        factor = ROLLBACK_FACTOR**rollbacks
        seen = self.state.total_series
        log.warning("%s; going back to %s series, with %g times the rates of this stage", error.what, seen, factor)
        self.telemetry.report(self._stage, seen, {"rollbacks": rollbacks, "rate_factor": factor})

    # ---- a stage ---------------------------------------------------------------------------------------------------

    @property
    def _stage(self) -> str:
        return STAGES[self.state.stage]

    @property
    def _stage_series(self) -> int:
        return stage_series(self.config.training, self._stage)

    def _enter(self) -> None:
        if self._stage == "days":
            self._tell("encoding the training series, grouping them, fitting the distribution of households")
            transitions.make_conditions(self.state, self.data, self.runtime)
        elif self._stage == "adversarial":
            self._tell("drawing households to train the generator on")
            transitions.draw_pool(self.state, self.data, self.scaler, self.runtime)

    def _tell(self, doing: str) -> None:
        self.telemetry.report(self._stage, self.state.total_series, {}, doing)

    def _run_stage(self) -> None:
        with profiled(self.runtime.profile, self._stage, self.runtime.device) as step_taken:
            while self.state.series_seen < self._stage_series:
                self._run_step()
                step_taken()

    def _run_step(self) -> None:
        """Take a step and check it; report progress and save a checkpoint where they are due."""
        training, state, total = self.config.training, self.state, self._stage_series
        step = {"encoder": self._encoder_step, "days": self._days_step, "adversarial": self._adversarial_step}
        figures = step[self._stage]()
        state.series_seen += training.batch_size
        leaving = figures.pop(LEAVING) > 0
        self._compare_workers()
        if "diversity" in figures:
            state.diversity += 0.1 * (figures["diversity"] - state.diversity)
            self._watch_diversity(state.diversity, state.series_seen / total)
        last = state.series_seen >= total
        looked = self._look(figures, last)
        if state.rollbacks:
            figures["rollbacks"] = state.rollbacks
        report = looked or last or _crossed(state.series_seen, training.log_interval, training.batch_size)
        if report:
            self.telemetry.report(self._stage, state.total_series, {**figures, "workers": self.runtime.world_size})
        due = "validation/days" in figures
        due = due or _crossed(state.series_seen, training.checkpoint_interval, training.batch_size)
        due = due or (report and self.runtime.noticed())
        # A collapsed generator is not saved: a rollback would return to it.
        if leaving or (due and not last and state.diversity >= training.diversity_floor):
            self._save()
        if leaving:
            raise Stopped(f"stopped as asked after {state.total_series} series; the same command goes on from there")

    def _look(self, figures: dict[str, float], last: bool) -> bool:
        """Add periodic evaluations to ``figures``; return whether one was due. Collective.

        These are the prior's validation loss and the scores of series sampled from the prior or the generator. The
        generator is not scored here at the end of its stage, where `transitions.choose_correction` scores more series.
        """

        def due(times: int) -> bool:
            return _crossed(self.state.series_seen, self._stage_series / times, self.config.training.batch_size)

        if self._stage == "days" and due(VALIDATIONS):
            figures["validation/days"] = self._validate_days()
            if self.score is not None and due(DRAWN) and self.config.generator.noise == "prior":
                values, starts = transitions.prior_values(self.state, self.data, self.scaler, SCORED)
                figures["score/prior"] = self.score(values, starts)
                self._draw_picture(values)
            return True
        if self._stage == "adversarial" and due(SCORES):
            if self.score is not None and not last:
                values, starts = transitions.pool_values(self.state, self.data, self.scaler, SCORED)
                figures["score/pool"] = self.score(values, starts)
            return True
        return False

    def _compare_workers(self) -> None:
        interval = self.config.training.checksum_interval
        taken = self.state.series_seen // self.config.training.batch_size
        if interval and taken % interval == 0:
            check_equal(self.state, self.runtime)

    def _leave(self) -> None:
        if self._stage == "days":
            best = {k.removeprefix("best."): v for k, v in self.state.drawn.items() if k.startswith("best.")}
            if best:
                self.state.average.days.load_state_dict(best)
                self.state.networks.days.load_state_dict(best)
        elif self._stage == "adversarial":
            figures = transitions.choose_correction(self.state, self.data, self.scaler, self.runtime, self.score)
            self.telemetry.report("adversarial", self.state.total_series, figures)
            self._draw_picture(transitions.pool_values(self.state, self.data, self.scaler, 4)[0])

    # ---- a step ----------------------------------------------------------------------------------------------------

    def _begin(self, stage: str, candidates: torch.Tensor) -> tuple[torch.Tensor, StepRandom]:
        seed, batch, seen = self.config.seed, self.config.training.batch_size, self.state.series_seen
        if self.state.rollbacks:
            # Other batches and noise than those that led to the divergence.
            seed = seed_of(seed, "rollback", self.state.rollbacks)
        rnd = StepRandom(seed, stage, seen, batch, self.runtime)
        wanted = ("residual", "regular") if stage == "days" else ("scores",)
        self.data.ahead(batch_rows(candidates, seed, stage, seen + batch, batch)[rnd.rows], (*wanted, "observed"))
        return batch_rows(candidates, seed, stage, seen, batch)[rnd.rows], rnd

    def _take(self, phase: str, loss: Loss) -> dict[str, float]:
        def cast(part: slice) -> phases.LossAndFigures:
            with autocast(self.dtype, self.runtime.device):
                return loss(part)

        return take_step(self.state, phase, cast, self.runtime)

    def _encoder_step(self) -> dict[str, float]:
        networks, data = self.state.networks, self.data
        rows, rnd = self._begin("encoder", self.fitted_rows)
        noise = rnd.normal(self.config.encoder.latent_dim)

        def loss(part: slice) -> phases.LossAndFigures:
            return phases.encoder_loss(networks, data, rows[part], noise[part], self.config)

        return self._take("encoder", loss)

    def _days_step(self) -> dict[str, float]:
        networks, data = self.state.networks, self.data
        rows, rnd = self._begin("days", self.fitted_rows)
        cond = self.state.drawn["cond"][rnd.integers(transitions.GROUPINGS), rows]
        spread, dropout = phases.days_noise(self.config.days, len(self.fitted_rows))
        jitter = spread * rnd.normal(data.shape.num_numbers)
        at = rnd.crop(data.shape.num_tokens, self.config.days.crop)
        slots = rnd.some(data.shape.points, self.config.days.values)

        def loss(part: slice) -> phases.LossAndFigures:
            of_part = rows[part], cond[part], jitter[part], at[part]
            return phases.days_loss(networks, data, *of_part, slots, dropout)

        return self._take("days", loss)

    def _adversarial_step(self) -> dict[str, float]:
        figures = self._discriminator_step()
        return figures | self._generator_step()

    def _discriminator_step(self) -> dict[str, float]:
        networks, config = self.state.networks, self.config
        index = self.state.series_seen // config.training.batch_size
        penalise = index % config.loss.penalty_interval == 0
        batch, _ = self._adversarial_batch("discriminator")
        networks.generator.eval()
        with autocast(self.dtype, self.runtime.device):
            fake = phases.draw_fake(networks, batch)
        diversity = losses.diversity(fake, batch.real, mean_over(self.runtime))

        def loss(part: slice) -> phases.LossAndFigures:
            return phases.discriminator_loss(networks, batch.part(part), fake[part], penalise, config)

        return {**self._take("discriminator", loss), "diversity": float(diversity)}

    def _generator_step(self) -> dict[str, float]:
        networks, config = self.state.networks, self.config
        batch, rnd = self._adversarial_batch("generator")
        other = self._noise(rnd) if config.loss.mode_seeking else batch.noise
        networks.generator.refresh_norm()

        def loss(part: slice) -> phases.LossAndFigures:
            noise = (other[0][part], other[1][part])
            return phases.generator_loss(networks, self.state.average, batch.part(part), noise, config)

        return self._take("generator", loss)

    def _noise(self, rnd: StepRandom) -> tuple[torch.Tensor, torch.Tensor]:
        width = self.config.generator.noise_dim
        return rnd.normal(self.data.shape.num_tokens, width), rnd.normal(width)

    def _adversarial_batch(self, phase: str) -> tuple[phases.AdversarialBatch, StepRandom]:
        rows, rnd = self._begin(phase, self.fitted_rows)
        drawn = self.state.drawn
        # Samples of one condition stay adjacent, so that the cycle term can average over them.
        first = rnd.integers(len(drawn["pool_cond"]) // SHARED)[::SHARED] * SHARED
        pool = (first[:, None] + torch.arange(SHARED, device=first.device)).flatten()
        batch = phases.AdversarialBatch(
            real=self.data.scores[rows],
            real_cond=drawn["cond"][rnd.integers(transitions.GROUPINGS), rows],
            real_calendar=self.data.calendar_of(rows),
            observed=self.data.observed[rows].float(),
            base=drawn["pool_base"][pool] if "pool_base" in drawn else None,
            cond=drawn["pool_cond"][pool],
            numbers=drawn["pool_numbers"][pool],
            calendar=self.data.calendar[drawn["pool_start_index"][pool]],
            noise=self._noise(rnd),
            share=rnd.uniform(),
        )
        return batch, rnd

    # ---- evaluation and checkpoints --------------------------------------------------------------------------------

    @torch.no_grad()
    def _validate_days(self) -> float:
        """Return the averaged prior's loss on validation entities; store the best average so far. Collective."""
        rows = torch.nonzero(self.data.validation)[:, 0][:VALIDATED]
        size, first = self.runtime.world_size, self.runtime.rank
        # Each worker takes its share; with fewer series than workers, each takes all of them.
        mine = rows[first::size] if len(rows) >= size else rows
        cond = self.state.drawn["cond"][0, mine]
        # Whole years, in parts no larger than those of a step, or validation would need more memory than training.
        part = parts_of_share(self.config.training, self.runtime)[0].stop
        total = torch.zeros((), device=self.runtime.device)
        for of_part, cond_of_part in zip(mine.split(part), cond.split(part), strict=True):
            total += len(of_part) * phases.days_loss(self.state.average, self.data, of_part, cond_of_part, None)[0]
        # Shares may differ by one series.
        both = torch.stack([total, torch.full_like(total, len(mine))])
        self.runtime.mean([both])
        value = float(both[0] / both[1])
        if value < self.state.best_loss:
            self.state.best_loss = value
            best = {f"best.{k}": v.clone() for k, v in self.state.average.days.state_dict().items()}
            self.state.drawn |= best
        return value

    def _watch_diversity(self, diversity: float, progress: float) -> None:
        floor = self.config.training.diversity_floor
        if progress > ALARM_AFTER and diversity < floor:
            raise Unstable(
                f"the generator collapsed: spread of its series is {diversity:.3f} of the real spread after "
                f"{self.state.total_series} series{tried(self.state)}, the floor is {floor}",
                "raise loss.mode_seeking or loss.penalty_weight, or lower training.generator_lr",
            )

    def _draw_picture(self, values: NDArray) -> None:
        real = self.scaler.inverse(
            unpatchify(self.data.scores[:4], self.data.shape.channels, self.data.shape.length).cpu().numpy(),
            self.data.numbers[:4].cpu().numpy(),
        )
        steps = self.data.shape.week * self.data.shape.patch_size
        self.telemetry.picture("weeks", self.state.total_series, real, values, steps)

    def _save(self) -> None:
        state, seen = self.state, self.state.total_series
        if self.config.training.checksum_interval:
            # Only rank 0 writes: a state that the other workers do not share must not be saved.
            check_equal(state, self.runtime)
        self.last_good = state.files()
        known = {"series_seen": seen, "validation": min(state.best_loss, UNKNOWN_LOSS)}
        self.runtime.save(f"{seen:09d}_{state.stage}", self.last_good, known)


def _crossed(series_seen: int, interval: float, batch: int) -> bool:
    """Return whether the last batch passed a multiple of ``interval``."""
    return int(series_seen / interval) > int((series_seen - batch) / interval)
