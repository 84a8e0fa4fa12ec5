"""Two processes that share a batch must compute the same as one process on the whole batch.

Everything runs in double precision (`double`), so that only the order of summation differs: measured, at most 4e-15 in
any weight after six AdamW steps. Every loss is a mean over series; one over values or days would be wrong by 1e-3.

All cases run in one pair of processes, which writes its results; the tests compare them with this process.
"""

import dataclasses
import errno
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_pool import small_pool
from torch import nn
from workers import found_by, meeting

from ttsgan import api, recipes
from ttsgan.config.training import LOSSES
from ttsgan.errors import DivergedError
from ttsgan.training import dataset, memory_map, phases, transitions
from ttsgan.training.dataset import build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.memory_map import map_train_set
from ttsgan.training.runtime import LocalRuntime, NotKept, ProcessGroupRuntime
from ttsgan.training.telemetry import Telemetry

TOLERANCE = 1e-11
STEPS = 6
POOLED = 4
"""Chunks of prior draws in the pool."""
CLIP = 0.25
"""Smaller than the gradient norm of every phase in every case, so that all steps are clipped."""
PLAIN = (
    "days.dropout=0", "days.last_dropout=0", "training.warmup=0", "encoder.free_bits=0", f"training.grad_clip={CLIP}",
)  # fmt: skip
PARTS = "training.accumulation=2"
"""Setting of two workers in the cases "in parts"; one worker takes the same batch of 16 as a whole."""
EVERYTHING = ("loss.mode_seeking=0.1", "loss.drift=0.01", "loss.penalty_interval=1")
CASES = {
    "encoder": (0, False, ()),
    "encoder with gaps": (0, True, ()),
    "encoder with free bits": (0, False, ("encoder.free_bits=0.15",)),
    "days": (1, False, ()),
    "days with gaps": (1, True, ()),
    **{f"adversarial {name}": (2, False, (f"loss.name={name}", *EVERYTHING)) for name in LOSSES},
    "adversarial with gaps": (2, True, EVERYTHING),
    "adversarial with lazy penalties": (2, False, (*EVERYTHING, "loss.penalty_interval=4")),
    "adversarial white noise": (2, False, ("generator.noise=white", *EVERYTHING)),
    "encoder in parts": (0, True, ("training.batch_size=16", "encoder.free_bits=0.15")),
    "days in parts": (1, True, ("training.batch_size=16",)),
    "adversarial in parts": (2, True, ("training.batch_size=16", *EVERYTHING)),
    "adversarial wgan-gp in parts": (2, True, ("training.batch_size=16", "loss.name=wgan-gp", *EVERYTHING)),
}


@contextmanager
def double():
    """Make double precision the default, also where the code asks for single precision."""
    single = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(torch.float32)


def gappy(data, gaps: bool):
    """Return data without gaps, or with a different share of gaps in each series and some days mostly missing."""
    seen = torch.ones_like(data.observed)
    if gaps:
        g = torch.Generator().manual_seed(0)
        share = torch.linspace(0, 0.8, len(seen))[torch.randperm(len(seen), generator=g), None, None]
        seen = torch.rand(seen.shape, generator=g) > share
    return dataclasses.replace(data, observed=seen, scores=data.scores * seen)


def moments(made: Trainer) -> dict[str, torch.Tensor]:
    """Return the optimizers' running means of gradients; where these have no memory, the last step's gradients."""
    out = {}
    for phase, optimizer in made.state.optimizers.items():
        for index, held in enumerate(optimizer.state.values()):
            out[f"gradient.{phase}.{index}"] = held["exp_avg"]
    return out


def run_cases(config, values, starts, entities, runtime) -> dict[str, dict[str, torch.Tensor]]:
    """Return weights, averages and figures of each case after a few steps from one start."""
    out = {}
    with double():
        config = recipes.override(config, PLAIN)
        scaler = api.fit_scaler(values, starts, 14_400, config)
        data = build_train_set(values, starts, entities, scaler, config)
        data = dataclasses.replace(data, calendar=data.calendar.double())
        drawn = {}
        for name, (stage, gaps, assignments) in CASES.items():
            telemetry = Telemetry(None, 1)
            if name.endswith("in parts") and runtime.world_size > 1:
                assignments = (*assignments, PARTS)
            made = Trainer(recipes.override(config, assignments), gappy(data, gaps), scaler, runtime, telemetry)
            nn.init.constant_(made.state.networks.generator.gain, 0.3)
            made.state.average.load_state_dict(made.state.networks.state_dict())
            transitions.make_conditions(made.state, made.data, runtime)
            noise = made.config.generator.noise
            if stage == 2:
                if noise not in drawn:
                    transitions.draw_pool(made.state, data, scaler, runtime)
                    drawn[noise] = {k: v for k, v in made.state.drawn.items() if k.startswith("pool")}
                made.state.drawn |= drawn[noise]
            made.state.stage = stage
            step = (made._encoder_step, made._days_step, made._adversarial_step)[stage]
            figures = {}
            for _ in range(STEPS):
                figures = step()
                made.state.series_seen += made.config.training.batch_size
            held = {f"networks.{k}": v for k, v in made.state.networks.named_parameters()}
            held |= {f"average.{k}": v for k, v in made.state.average.named_parameters()}
            held |= moments(made)
            held |= {f"drawn.{k}": v for k, v in made.state.drawn.items()}
            held |= {f"figure.{k}": torch.tensor(v) for k, v in figures.items()}
            out[name] = {k: v.detach().clone() for k, v in held.items()}
    return out


def primitives(runtime) -> dict[str, torch.Tensor]:
    """Return the results of the runtime's operations on small tensors of several types and shapes."""
    rank = runtime.rank
    one, two, three = torch.tensor([rank, 2.0]), torch.full((2, 2), rank + 1.0).double(), torch.ones(3, 2).T * rank
    runtime.mean([one, two, three])
    sent = torch.arange(3.0) + 10 * rank
    runtime.broadcast([sent])
    rows = torch.arange(2) + 10 * rank
    return {"one": one, "two": two, "three": three, "sent": sent, "rows": runtime.gather(rows)}


def whole_training(config, values, starts, entities, runtime) -> dict[str, torch.Tensor]:
    """Train to the end in single precision, dropout on, with a score that only rank 0 computes."""
    scaler = api.fit_scaler(values, starts, 14_400, config)
    data = build_train_set(values, starts, entities, scaler, config)
    state = api.train(data, scaler, config, runtime, None, lambda made, _: float(made.mean()))
    return {k: v.clone() for k, v in (state.networks.state_dict() | state.drawn).items()}


def diverge(config, values, starts, entities, runtime) -> str:
    """The series of worker 1 are NaN; return this worker's message."""
    scaler = api.fit_scaler(values, starts, 14_400, config)
    data = build_train_set(values, starts, entities, scaler, config)
    if runtime.rank == 1:
        data.scores[:] = float("nan")
    try:
        api.train(data, scaler, config, runtime, None, None)
    except DivergedError as error:
        return str(error)
    return "nothing"


def recover(config, values, starts, entities, runtime, checkpoints) -> dict:
    """The loss of worker 1 is NaN in the third step: both roll back to the checkpoint before it, and continue."""
    config = recipes.override(config, ["training.checkpoint_interval=16"])
    scaler = api.fit_scaler(values, starts, 14_400, config)
    data = build_train_set(values, starts, entities, scaler, config)
    made = Trainer(config, data, scaler, ProcessGroupRuntime(checkpoints), Telemetry(None, 1))
    seen, real = [], phases.encoder_loss

    def loss(networks, data, rows, *others):
        seen.append((made.state.series_seen, made.state.rollbacks))
        total, figures = real(networks, data, rows, *others)
        return (total * float("nan") if runtime.rank == 1 and seen[-1] == (16, 0) else total), figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "encoder_loss", loss)
        state = made.train()
    weights = state.networks.state_dict() | state.average.state_dict()
    return {"seen": seen, "weights": {k: v.clone() for k, v in weights.items()}}


def no_room(checkpoints) -> str:
    """The disk of worker 0 is full; return this worker's message."""
    kept = ProcessGroupRuntime(checkpoints)

    def write(name, files):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept._write = write
    try:
        kept.save("000000008_0", {}, {})
    except NotKept as error:
        return str(error)
    return "nothing"


def share_files(config, values, starts, entities, runtime) -> dict:
    """Both workers write into files of one folder, map them, and read what the other wrote."""
    scaler, read = api.fit_scaler(values, starts, 14_400, config), []

    def take(rows):
        read.extend(rows.tolist())
        return values[rows]

    with pytest.MonkeyPatch.context() as patch:
        for module in (dataset, memory_map):
            patch.setattr(module, "SCALE_ROWS", 10)
        data = map_train_set(take, starts, entities, scaler, config, runtime)
        memory = build_train_set(values, starts, entities, scaler, config)
    same = [torch.equal(getattr(data, name), getattr(memory, name)) for name in ("scores", "residual", "observed")]
    return {"read": read, "same": same}


NUDGED = ("networks.encoder", "networks.generator", "average.days")


def nudge(config, values, starts, entities, runtime) -> dict[str, str]:
    """One weight of worker 1 differs in its last bit; return this worker's message for each place of the weight."""
    scaler = api.fit_scaler(values, starts, 14_400, config)
    data = build_train_set(values, starts, entities, scaler, config)
    out = {}
    for where in (*NUDGED, "not compared"):
        interval = 0 if where == "not compared" else 3
        config = recipes.override(config, [f"training.checksum_interval={interval}"])
        made = Trainer(config, data, scaler, runtime, Telemetry(None, 1))
        if runtime.rank == 1:
            kind, _, name = (NUDGED[0] if interval == 0 else where).partition(".")
            weight = next(getattr(made.state, kind).get_submodule(name).parameters())
            # The largest weight: its last bit survives a few small steps.
            weight.detach().view(torch.int32).view(-1)[weight.abs().argmax()] += 1
        try:
            made._run_stage()
            out[where] = "nothing"
        except DivergedError as error:
            out[where] = str(error)
    return out


def worker(rank: int, folder: str) -> None:
    with meeting(rank, folder) as given, small_pool(POOLED):
        config = recipes.from_dict(given["config"])
        series = given["values"], given["starts"], given["entities"]
        runtime = ProcessGroupRuntime()
        kept = ProcessGroupRuntime(Path(folder) / "checkpoints")
        results = {
            "primitives": primitives(runtime),
            "cases": run_cases(config, *series, runtime),
            "whole": whole_training(config, *series, kept),
            "diverged": diverge(config, *series, runtime),
            "recovered": recover(config, *series, runtime, Path(folder) / "others"),
            "no room": no_room(Path(folder) / "full"),
            "nudged": nudge(config, *series, runtime),
            "files": share_files(config, *series, runtime),
        }
        torch.save(results, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def two(sample, small_config, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ddp")
    results = found_by(worker, sample, small_config, folder)
    results[0]["checkpoints"] = sorted(p.name for p in (folder / "checkpoints").iterdir())
    return results


@pytest.fixture(scope="module")
def one(sample, small_config) -> dict[str, dict[str, torch.Tensor]]:
    with small_pool(POOLED):
        return run_cases(small_config, sample.values, sample.starts, sample.entities, LocalRuntime())


def largest(one: dict, other: dict, part: str) -> float:
    assert one.keys() == other.keys()
    return max((one[k] - other[k]).abs().max().item() for k in one if k.startswith(part))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(one, two, case):
    for part in ("networks.", "average."):
        apart = largest(one[case], two[0]["cases"][case], part)
        assert apart < TOLERANCE, f"{part} {apart:.1e}"


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_processes_are_those_of_one(one, two, case):
    """Differences are relative to the network's largest gradient; parameters without gradient have exactly none."""
    first, second = one[case], two[0]["cases"][case]
    names = [name for name in first if name.startswith("gradient.")]
    assert names
    norms = [value for name, value in first.items() if name.startswith("figure.gradient_norm/")]
    assert norms
    assert all(norm > CLIP for norm in norms), "clipped"
    for phase in {name.split(".")[1] for name in names}:
        of = [name for name in names if name.split(".")[1] == phase]
        largest_of = max(first[name].abs().max() for name in of)
        apart = max((first[name] - second[name]).abs().max() for name in of) / largest_of
        assert apart < 1e-10, f"{phase} {apart:.1e}"


@pytest.mark.parametrize("case", CASES)
def test_workers_agree_bit_for_bit(two, case):
    first, second = (results["cases"][case] for results in two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("case", ["adversarial relativistic", "adversarial white noise"])
def test_conditions_and_pool_do_not_depend_on_workers(one, two, case):
    assert largest(one[case], two[0]["cases"][case], "drawn.") < 1e-5
    assert largest(one[case], two[0]["cases"][case], "drawn.cond") < 1e-9


@pytest.mark.parametrize("case", ["encoder", "days", "adversarial relativistic"])
def test_losses_told_are_those_of_the_global_batch(one, two, case):
    for name, value in two[0]["cases"][case].items():
        if name.startswith("figure.loss") or name.startswith("figure.gradient_norm"):
            torch.testing.assert_close(value, one[case][name], rtol=1e-6, atol=1e-8, msg=name)


def test_diversity_told_is_that_of_the_global_batch(one, two):
    """The alarm must not depend on the number of workers: the spread within half a batch is a different figure."""
    case = "adversarial relativistic"
    held, wanted = two[0]["cases"][case]["figure.diversity"], one[case]["figure.diversity"]
    torch.testing.assert_close(held, wanted, rtol=1e-6, atol=0)


def test_primitives(two):
    for results in two:
        made = results["primitives"]
        assert made["one"].tolist() == [0.5, 2.0]
        assert made["two"].tolist() == [[1.5, 1.5], [1.5, 1.5]]
        assert made["three"].tolist() == [[0.5] * 3] * 2
        assert made["sent"].tolist() == [0, 1, 2]
        assert made["rows"].tolist() == [0, 1, 10, 11]


def test_whole_training_ends_with_equal_workers(two):
    first, second = (results["whole"] for results in two)
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []
    assert two[0]["checkpoints"][-1].startswith("checkpoint_000000112_3")
    assert len(two[0]["checkpoints"]) == 2


def test_a_worker_that_diverges_stops_all(two):
    for results in two:
        assert results["diverged"].startswith("the loss of the encoder is nan after 0 series, after 3 rollbacks")
        assert "lower training.encoder_lr (now 0.002), and start over" in results["diverged"]


def test_a_worker_that_diverges_once_takes_all_back(two):
    first, second = (results["recovered"] for results in two)
    assert first["seen"] == second["seen"] == [(0, 0), (8, 0), (16, 0), (16, 1), (24, 1)]
    assert [k for k, v in first["weights"].items() if not torch.equal(v, second["weights"][k])] == []
    assert all(torch.isfinite(v).all() for v in first["weights"].values())


def test_a_full_disk_of_one_worker_ends_all(two):
    first, second = (results["no room"] for results in two)
    assert first.startswith("No space left on device: cannot write checkpoint 000000008_0 in ")
    assert second.startswith("worker 0 could not write checkpoint 000000008_0 in ")


def test_two_workers_share_the_work_of_scaling_and_its_files(two):
    first, second = (results["files"] for results in two)
    assert first["read"] == [*range(10), *range(20, 30), *range(40, 48)]
    assert second["read"] == [*range(10, 20), *range(30, 40)]
    assert first["same"] == second["same"] == [True] * 3


def test_the_last_bit_of_one_weight_is_seen(two):
    """Weights are compared every third step of 8 series, also in the networks of other stages and in averages."""
    for results in two:
        for where in NUDGED:
            wanted = f"the weights of {where}: worker 1 differs from worker 0 after 24 series; run the same"
            assert results["nudged"][where].startswith(wanted)
        assert results["nudged"]["not compared"] == "nothing"
