"""Silent errors of workers that share a batch: each is refused at once, or is harmless here.

Under DistributedDataParallel these are: two backward passes after both forward passes, a step that bypasses the
wrapper, a graph that changes, a parameter without gradient, uneven shares. Here gradients are averaged once, after all
passes.

All cases run in one pair of processes, which writes its results.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_pool import small_pool
from torch import nn
from workers import found_by, meeting

from ttsgan import api, recipes
from ttsgan.errors import TtsganError
from ttsgan.models.networks import Networks
from ttsgan.training import phases, transitions
from ttsgan.training import runtime as runtimes
from ttsgan.training.dataset import build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import ProcessGroupRuntime
from ttsgan.training.step import take_step
from ttsgan.training.telemetry import Telemetry

PHASES = {"encoder": (8,), "days": (40,), "discriminator": (88,), "generator": (88, 96)}
"""Series seen after the first step of each phase that can reveal a difference between workers. The generator's first
step may not: it moves only one number, by its sign, which may be the same in both workers."""
SETTINGS = (
    "training.batch_size=16",
    "seed=1",
    "training.checksum_interval=3",
    "loss.penalty_interval=2",
    "days.width=8",
)
BY_MACHINE = "training.precision, which is set by the kind of machine"
SERIES = {
    "one series less": "number of training series",
    "two series in each other's place": "entities of the training series",
    "another year": "starts of the training series",
    "others kept for validation": "series kept for validation",
}
CHECKPOINTS = {
    "an older one": "the progress of training",
    "other weights": "the weights of networks.discriminator",
    "other conditions": "the conditions and draws of the prior",
}


class Given:
    """The inputs of a worker: its runtime, the configuration, and the series."""

    def __init__(self, given: dict, folder: str) -> None:
        self.folder = Path(folder)
        self.rank = dist.get_rank()
        self.config = recipes.from_dict(given["config"])
        self.series = given["values"], given["starts"], given["entities"]
        values, starts, entities = self.series
        self.scaler = api.fit_scaler(values, starts, 14_400, self.config)
        self.data = build_train_set(values, starts, entities, self.scaler, self.config)

    def trainer(self, *assignments, runtime=None, data=None) -> Trainer:
        config = recipes.override(self.config, assignments)
        runtime = runtime or ProcessGroupRuntime()
        return Trainer(config, data or self.data, self.scaler, runtime, Telemetry(None, 1))

    def standing(self, *assignments) -> Trainer:
        """Return a trainer at the start of the adversarial stage, whose generator makes corrections."""
        made = self.trainer(*assignments)
        nn.init.constant_(made.state.networks.generator.gain, 0.3)
        made.state.average.load_state_dict(made.state.networks.state_dict())
        transitions.make_conditions(made.state, made.data, made.runtime)
        transitions.draw_pool(made.state, made.data, self.scaler, made.runtime)
        made.state.stage = 2
        return made


def said(act) -> str:
    """Return the error that ``act`` raises."""
    try:
        act()
    except TtsganError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    held = made.state.networks.state_dict() | {f"average.{k}": v for k, v in made.state.average.state_dict().items()}
    return {k: v.clone() for k, v in (held | made.state.drawn).items()}


def gradients(made: Trainer, phase: str) -> list[torch.Tensor]:
    """Return the running means of gradients after one step."""
    return [held["exp_avg"].clone() for held in made.state.optimizers[phase].state.values()]


class Forgetful(ProcessGroupRuntime):
    """Averages all but the gradients of one phase."""

    forgets = phase = ""

    def mean(self, tensors):
        super().mean(tensors[-1:] if self.phase == self.forgets else tensors)


def not_averaged(given: Given) -> dict[str, tuple[str, list[str]]]:
    """The gradients of one phase are not averaged; return the error and the checkpoints that are left."""
    out, real = {}, Trainer._take

    def take(self, phase, *others, **named):
        self.runtime.phase = phase
        return real(self, phase, *others, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_take", take)
        for phase in PHASES:
            runtime = Forgetful(given.folder / phase)
            runtime.forgets = phase
            made = given.trainer("training.checkpoint_interval=8", runtime=runtime)
            words = said(made.train)
            out[phase] = words, sorted(p.name for p in (given.folder / phase).glob("checkpoint_*"))
    return out


def other_settings(given: Given) -> dict[str, str]:
    """Worker 1 is started with another setting."""
    out = {}
    for setting in SETTINGS:
        made = given.trainer(*([setting] if given.rank == 1 else []))
        out[setting.split("=")[0]] = said(made.train)
    made = given.trainer()
    made.dtype = torch.bfloat16 if given.rank == 1 else torch.float32
    out[BY_MACHINE] = said(made.train)
    return out


def other_series(given: Given) -> dict[str, str]:
    """Worker 1 reads other series."""
    values, starts, entities = given.series
    rows = np.arange(len(values))
    swapped = np.array([1, 0, *rows[2:]])
    cut = build_train_set(values[:-1], starts[:-1], entities[:-1], given.scaler, given.config)
    own = {
        "one series less": cut,
        "two series in each other's place": replace(given.data, entities=entities[swapped]),
        "another year": replace(given.data, starts=starts + np.timedelta64(364, "D")),
        "others kept for validation": replace(given.data, validation=given.data.validation.roll(1)),
    }
    return {name: said(given.trainer(data=data if given.rank else None).train) for name, data in own.items()}


def other_checkpoints(given: Given) -> dict[str, str]:
    """Worker 1 resumes from another checkpoint than worker 0; both checkpoints are complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "KEPT_CHECKPOINTS", 1000)
        given.trainer("training.checkpoint_interval=8", runtime=ProcessGroupRuntime(given.folder / "all")).train()
    kept, out = sorted((given.folder / "all").iterdir()), {}
    for name in CHECKPOINTS:
        mine = given.folder / f"{name} {given.rank}"
        chosen = kept[-3] if name == "an older one" and given.rank else kept[-2]
        shutil.copytree(chosen, mine / chosen.name)
        made = given.trainer("training.checkpoint_interval=8", runtime=ProcessGroupRuntime(mine))
        if given.rank and name != "an older one":
            real = made.state.load

            def load(folder, made=made, real=real, name=name):
                real(folder)
                weight = made.state.networks.discriminator.parameters()
                touched = made.state.drawn["cond"] if name == "other conditions" else next(weight).detach()
                touched.view(-1)[3] += 1e-3

            made.state.load = load
        out[name] = said(made.train)
    return out


def other_starts(given: Given) -> dict[str, dict[str, torch.Tensor]]:
    """Worker 1 starts with other weights and buffers, and its sums are rounded differently; run whole trainings."""
    straight = given.trainer("training.checksum_interval=1")
    straight.train()
    made = given.trainer("training.checksum_interval=1")
    with pytest.MonkeyPatch.context() as patch:
        if given.rank == 1:
            for tensor in made.state.networks.state_dict().values():
                tensor += 0.25
            real = Networks.fit_latents
            patch.setattr(Networks, "fit_latents", lambda self, latents: real(self, 1.001 * latents))
        made.train()
    return {"straight": weights(straight), "other": weights(made)}


def two_backwards(given: Given) -> dict[str, list[torch.Tensor]]:
    """Take the forward passes of adversarial loss and gradient penalty, then a backward pass of each."""
    settings = ("training.warmup=0", "loss.penalty_interval=1")
    plain = given.standing(*settings)
    plain._discriminator_step()
    split, real = given.standing(*settings), phases.discriminator_loss

    def loss(networks, batch, fake, penalise, config):
        adversarial, figures = real(networks, batch, fake, False, config)
        penalty = config.loss.penalty_weight * phases._penalty(networks, batch, fake, config)
        adversarial.backward()
        return penalty, figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "discriminator_loss", loss)
        split._discriminator_step()
    return {"plain": gradients(plain, "discriminator"), "split": gradients(split, "discriminator")}


def without_gradient(given: Given) -> list[list[torch.Tensor]]:
    """Worker 1's loss depends on every second parameter only, with slope 4; return both workers' encoder steps."""
    made = given.trainer("training.grad_clip=1e9", "training.warmup=0")
    parameters = made.state.parameters["encoder"]

    def loss(*_):
        return sum(4 * p.sum() for p in parameters[:: 1 + given.rank]), {}

    take_step(made.state, "encoder", loss, made.runtime)
    slopes = [g / (1 - 0.9) for g in gradients(made, "encoder")]
    return [slopes, [p.detach().clone() for p in parameters]]


def overflow(given: Given) -> dict:
    """With gradient scalers, the gradient of worker 1 overflows 16 bits in the first of two steps."""
    made = given.trainer("training.warmup=0")
    state = made.state
    state.grad_scalers = {name: torch.amp.GradScaler("cpu", enabled=True) for name in state.optimizers}
    before, scales, moved = weights(made), [], []
    real = phases.encoder_loss

    def loss(*args):
        value, figures = real(*args)
        weight = state.parameters["encoder"][0]
        infinite = (weight - weight.detach()).abs().sum().sqrt()
        return value + (infinite if given.rank == 1 and not scales else 0), figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "encoder_loss", loss)
        for _ in range(2):
            made._encoder_step()
            scales.append({name: scaler.get_scale() for name, scaler in state.grad_scalers.items()})
            names = [k for k, v in state.networks.state_dict().items() if not torch.equal(v, before[k])]
            moved.append({name.split(".")[0] for name in names})
    return {"scales": scales, "moved": moved, "weights": weights(made)}


CASES = (
    not_averaged, other_settings, other_series, other_checkpoints, other_starts, two_backwards, without_gradient,
    overflow,
)  # fmt: skip


def worker(rank: int, folder: str) -> None:
    with meeting(rank, folder) as given, small_pool():
        mine, results = Given(given, folder), {}
        for case in CASES:
            try:
                results[case.__name__] = case(mine)
            except TtsganError as error:
                results[case.__name__] = str(error)
        torch.save(results, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def both(sample, small_config, tmp_path_factory) -> list[dict]:
    return found_by(worker, sample, small_config, tmp_path_factory.mktemp("silent"))


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("phase", PHASES)
def test_gradients_that_are_not_averaged_are_refused_before_they_are_kept(both, phase):
    """A step that bypasses the wrapper is detected before the next checkpoint, however rare the comparisons are."""
    for results in both:
        words, kept = results["not_averaged"][phase]
        wanted = rf"DivergedError: the weights of networks\.{phase}: worker 1 differs from worker 0 after (\d+) "
        seen = int(re.match(wanted, words)[1])
        assert seen in PHASES[phase]
        assert all(int(name[11:20]) < seen for name in kept), "nothing that worker 0 alone went on to"
        assert bool(kept) == (seen > 8)


@pytest.mark.parametrize("name", [*(setting.split("=")[0] for setting in SETTINGS), BY_MACHINE])
def test_workers_of_other_settings_are_refused(both, name):
    """For example another batch size: each worker would take its share of a different batch."""
    for results in both:
        assert results["other_settings"][name].startswith(f"ConfigError: {name}: worker 1 differs from worker 0; ")


@pytest.mark.parametrize("case", SERIES)
def test_workers_of_other_series_are_refused(both, case):
    """A row of the batch would be a different series for each worker."""
    for results in both:
        wanted = f"ConfigError: {SERIES[case]}: worker 1 differs from worker 0; start all workers with one "
        assert results["other_series"][case].startswith(wanted)


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_workers_that_go_on_from_other_checkpoints_are_refused(both, case):
    for results in both:
        words = results["other_checkpoints"][case]
        assert words.startswith(f"DivergedError: {CHECKPOINTS[case]}: worker 1 differs from worker 0 after ")


def test_what_workers_begin_with_is_that_of_worker_0(both):
    first, second = (results["other_starts"] for results in both)
    assert same(first["straight"], first["other"])
    assert same(first["other"], second["other"])


def test_two_backward_passes_after_both_forward_passes_are_one_step(both):
    first, second = (results["two_backwards"] for results in both)
    longest = max(g.abs().max() for g in first["plain"])
    for plain, split, elsewhere in zip(first["plain"], first["split"], second["split"], strict=True):
        assert torch.equal(split, elsewhere)
        assert (plain - split).abs().max() < 1e-6 * longest


def test_a_parameter_without_gradient_on_one_worker_has_half_of_the_others(both):
    (slopes, moved), (others, moved_there) = (results["without_gradient"] for results in both)
    for index, (here, there) in enumerate(zip(slopes, others, strict=True)):
        torch.testing.assert_close(here, torch.full_like(here, 2.0 if index % 2 else 4.0))
        assert torch.equal(here, there)
    assert all(torch.equal(here, there) for here, there in zip(moved, moved_there, strict=True))


def test_an_overflow_of_one_worker_is_skipped_by_all(both):
    """The overflow lowers the scale of its own optimizer only, and the next step is taken."""
    first, second = (results["overflow"] for results in both)
    assert first["scales"] == second["scales"]
    for scales in first["scales"]:
        assert scales == {"encoder": 2.0**15, "days": 2.0**16, "discriminator": 2.0**16, "generator": 2.0**16}
    assert first["moved"] == second["moved"] == [set(), {"encoder", "decoder"}]
    assert same(first["weights"], second["weights"])
