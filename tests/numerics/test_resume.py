"""A run that is interrupted anywhere and resumed ends bit for bit like an uninterrupted one."""

import json
import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ttsgan import recipes
from ttsgan.errors import ConfigError, DataError, DivergedError, TtsganError
from ttsgan.training import runtime as runtimes
from ttsgan.training import state, telemetry
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime
from ttsgan.training.telemetry import PROGRESS_FILE, Telemetry

SETTINGS = ("training.checkpoint_interval=8", "loss.mode_seeking=0.1", "days.dropout=0.1", "encoder.dropout=0.1")


def score(values, starts):
    """Return an arbitrary figure of the series, so that a share of the correction is chosen."""
    return abs(float(values.std()) - 1)


def train(small, folder, *assignments):
    config = recipes.override(small.config, [*SETTINGS, *assignments])
    made = Trainer(config, small.data, small.scaler, LocalRuntime(folder), Telemetry(None, 1), score)
    return made.train()


def everything(state) -> dict[str, torch.Tensor]:
    """Return all of a run's final state, by name."""
    out = {f"networks.{k}": v for k, v in state.networks.state_dict().items()}
    out |= {f"average.{k}": v for k, v in state.average.state_dict().items()}
    out |= {f"drawn.{k}": v for k, v in state.drawn.items()}
    for phase, optimizer in state.optimizers.items():
        for index, held in optimizer.state_dict()["state"].items():
            out |= {f"{phase}.{index}.{k}": v for k, v in held.items()}
    numbers = {"stage": state.stage, "series_seen": state.series_seen, "best_loss": state.best_loss}
    return out | {k: torch.tensor(float(v), dtype=torch.float64) for k, v in numbers.items()}


def different(one: dict, other: dict) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """Return the uninterrupted run and every checkpoint that it saved."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "KEPT_CHECKPOINTS", 1000)
        done = train(small, folder)
    return everything(done), sorted(folder.iterdir())


CUTS = [
    ("in the encoder", "000000008_0"), ("after the encoder", "000000032_1"), ("in the days", "000000056_1"),
    ("after the days", "000000080_2"), ("in the adversarial stage", "000000096_2"), ("after the end", "000000112_3"),
]  # fmt: skip


@pytest.mark.parametrize("cut", [name for _, name in CUTS], ids=[what for what, _ in CUTS])
def test_interrupted_is_uninterrupted(small, whole, tmp_path, cut):
    wanted, checkpoints = whole
    chosen = next(p for p in checkpoints if p.name == f"checkpoint_{cut}")
    shutil.copytree(chosen, tmp_path / chosen.name)
    torch.manual_seed(12345)
    assert different(wanted, everything(train(small, tmp_path))) == []


def test_killed_twice_between_checkpoints(small, whole, tmp_path, monkeypatch):
    """Killed twice in the middle of a step, with checkpoints two steps apart: steps repeat, the result is the same."""
    taken = 0
    real = Trainer._take

    def fragile(self, *args, **named):
        nonlocal taken
        taken += 1
        if taken in (7, 17):
            raise KeyboardInterrupt
        return real(self, *args, **named)

    monkeypatch.setattr(Trainer, "_take", fragile)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(small, tmp_path, "training.checkpoint_interval=16")
    done = train(small, tmp_path, "training.checkpoint_interval=16")
    assert different(whole[0], everything(done)) == []


def test_without_checkpoints_is_the_same_run(small, whole):
    assert different(whole[0], everything(train(small, None))) == []


def test_a_half_written_checkpoint_is_not_taken(small, whole, tmp_path):
    wanted, checkpoints = whole
    shutil.copytree(checkpoints[3], tmp_path / checkpoints[3].name)
    shutil.copytree(checkpoints[5], tmp_path / ".000000056_1.tmp")
    (tmp_path / ".000000056_1.tmp" / "progress.json").unlink()
    assert different(wanted, everything(train(small, tmp_path))) == []


def cut_short(folder):
    with (folder / "optimizers.pt").open("r+b") as file:
        file.truncate(1000)


def one_bit(folder):
    held = bytearray((folder / "networks.safetensors").read_bytes())
    held[-1] ^= 1
    (folder / "networks.safetensors").write_bytes(held)


DAMAGE = {
    "cut short": (cut_short, r"optimizers\.pt has 1000 bytes instead of \d+"),
    "one bit": (one_bit, r"networks\.safetensors has another SHA-256"),
    "a file gone": (lambda f: (f / "drawn.safetensors").unlink(), r"drawn\.safetensors is missing"),
    "never finished": (lambda f: (f / "seal.json").unlink(), r"it has no seal\.json: half written"),
    "seal cut short": (lambda f: (f / "seal.json").write_text('{"format"'), r"it cannot be read \(JSONDecodeError\)"),
    "seal of another kind": (lambda f: (f / "seal.json").write_text("[]"), r"of another program or version"),
    "seal of another shape": (
        lambda f: (f / "seal.json").write_text('{"format": "ttsgan checkpoint 1", "files": [1]}'),
        r"it cannot be read \(AttributeError\)",
    ),
}  # fmt: skip


def three_checkpoints(whole, into):
    """Copy three checkpoints of the days stage; return the folders, oldest first."""
    chosen = [p for p in whole[1] if p.name[-2:] == "_1"][1:4]
    return [Path(shutil.copytree(p, into / p.name)) for p in chosen]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoint_gives_way_to_the_one_before_it(small, whole, tmp_path, caplog, kind):
    spoil, words = DAMAGE[kind]
    kept = three_checkpoints(whole, tmp_path)
    spoil(kept[-1])
    runtime = LocalRuntime(tmp_path)
    with runtime.latest() as folder:
        assert folder == kept[-2]
    assert re.search(rf"damaged checkpoint, {kept[-1].name}: .*{words}", caplog.text)
    assert different(whole[0], everything(train(small, tmp_path))) == []


def test_two_damaged_checkpoints_give_way_to_the_third(small, whole, tmp_path):
    kept = three_checkpoints(whole, tmp_path)
    cut_short(kept[-1])
    one_bit(kept[-2])
    assert different(whole[0], everything(train(small, tmp_path))) == []


def test_damaged_checkpoints_do_not_push_out_whole_ones(whole, tmp_path):
    kept = three_checkpoints(whole, tmp_path)
    cut_short(kept[-1])
    runtime = LocalRuntime(tmp_path)
    with runtime.latest():
        pass
    runtime.save("999999999_1", {"x": b""}, {})
    assert [p.name for p in sorted(tmp_path.iterdir())] == [kept[-2].name, "checkpoint_999999999_1"]


def test_no_whole_checkpoint_is_one_clear_error(small, whole, tmp_path):
    kept = three_checkpoints(whole, tmp_path)
    for folder in kept:
        cut_short(folder)
    with pytest.raises(DataError, match=rf"no checkpoint can be gone on with \({kept[-1].name}: .*; remove them"):
        train(small, tmp_path)
    assert all(folder.is_dir() for folder in kept)


def test_another_seed_is_another_run(small, whole):
    assert different(whole[0], everything(train(small, None, "seed=1")))


def test_checkpoint_of_other_settings_is_refused(small, whole, tmp_path):
    """A checkpoint of another width is refused with one line that says so, not with a list of tensors."""
    shutil.copytree(whole[1][4], tmp_path / whole[1][4].name)
    with pytest.raises(TtsganError):
        train(small, tmp_path, "days.width=8")


def test_alarm_remembers_what_it_saw(small, whole, tmp_path):
    """A collapsed generator is stopped at the same step, interrupted or not: the state holds the alarm's average."""

    def stopped(folder, cut):
        config = recipes.override(
            small.config,
            [*SETTINGS, "training.max_series=400", "training.diversity_floor=0.5", "training.generator_lr=1e-9"],
        )
        made = Trainer(config, small.data, small.scaler, LocalRuntime(folder), Telemetry(None, 1), None)
        if not any(folder.iterdir()):
            start = shutil.copytree(next(p for p in whole[1] if p.name == "checkpoint_000000080_2"), folder / "start")
            (start / "config.json").write_text(json.dumps(recipes.to_dict(config)))
            made.state.load(start)
            made._enter()
            made.state.drawn["pool_base"] *= 0
            made.runtime.save("000000000_2", made.state.files(), {})
        if cut:
            real, made._save = made._save, lambda: (real(), (_ for _ in ()).throw(KeyboardInterrupt))
        made.state.load(sorted(folder.glob("checkpoint_*"))[-1])
        try:
            made._run_stage()
        except DivergedError:
            return made.state.series_seen
        except KeyboardInterrupt:
            return None
        return 10**9

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    at_once = stopped(tmp_path / "a", cut=False)
    for _ in range(4):
        assert stopped(tmp_path / "b", cut=True) is None
    assert stopped(tmp_path / "b", cut=False) == at_once


# ---- checkpoints and telemetry ---------------------------------------------------------------------------------------


def test_state_round_trip(adversarial, trainer, tmp_path):
    made = adversarial()
    made._adversarial_step()
    made.state.series_seen = 8
    made.state.best_loss = 0.1 + 0.2
    LocalRuntime(tmp_path).save("here", made.state.files(), {})
    other = trainer().state
    torch.nn.init.normal_(other.networks.encoder.embed.weight)
    other.load(tmp_path / "checkpoint_here")
    assert (other.stage, other.series_seen, other.best_loss) == (2, 8, 0.1 + 0.2)
    assert different(everything(made.state), everything(other)) == []


def test_a_checkpoint_of_other_series_is_refused(adversarial, trainer, tmp_path):
    made = adversarial()
    LocalRuntime(tmp_path).save("here", made.state.files(), {})
    other = trainer().state
    other.series = "of others"
    with pytest.raises(ConfigError, match="checkpoint_here is of other training series"):
        other.load(tmp_path / "checkpoint_here")


def test_another_precision_of_products_is_told(adversarial, trainer, tmp_path, caplog):
    LocalRuntime(tmp_path).save("here", adversarial().state.files(), {})
    other = trainer().state
    other.load(tmp_path / "checkpoint_here")
    assert not caplog.records
    other.dtype = torch.bfloat16
    other.load(tmp_path / "checkpoint_here")
    assert "was trained in torch.float32; on this kind of machine training goes on in torch.bfloat16" in caplog.text


def test_local_checkpoints_are_whole_and_few(tmp_path):
    runtime = LocalRuntime(tmp_path / "checkpoints")
    with runtime.latest() as newest:
        assert newest is None
    for index in (1, 2, 10):
        runtime.save(f"{index:03d}_0", {"x": str(index).encode()}, {})
    with pytest.raises(TypeError):
        runtime.save("011_0", {"x": b"half", "y": "no bytes"}, {})
    with runtime.latest() as newest:
        assert (newest / "x").read_text() == "10"
    kept = [p.name for p in sorted(tmp_path.glob("checkpoints/checkpoint_*"))]
    assert kept == ["checkpoint_002_0", "checkpoint_010_0"]
    runtime.save("011_0", {"x": b"11"}, {})
    with runtime.latest() as newest:
        assert sorted(p.name for p in newest.iterdir()) == ["seal.json", "x"]
    LocalRuntime(None).save("x", {"x": "no bytes"}, {})


def test_checkpoints_are_taken_at_their_interval(trainer, tmp_path, monkeypatch):
    """Every 16 series, after each evaluation of the prior's validation loss, and at the end of each stage."""
    kept = {}
    runtime = LocalRuntime(tmp_path)
    monkeypatch.setattr(runtime, "save", lambda name, files, metrics: kept.update({name: metrics}))
    made = trainer("training.checkpoint_interval=16", runtime=runtime)
    made.train()
    sizes = {name: state.stage_series(made.config.training, name) for name in state.STAGES}
    assert sizes == {"encoder": 32, "days": 48, "adversarial": 32}
    wanted = ["000000016_0", "000000032_1"]
    wanted += [f"{32 + seen:09d}_1" for seen in range(8, 48, 8)] + ["000000080_2", "000000096_2", "000000112_3"]
    assert list(kept) == wanted
    assert [m["series_seen"] for m in kept.values()] == [int(name[:9]) for name in wanted]
    losses_told = [m["validation"] for m in kept.values()]
    assert all(math.isfinite(v) for v in losses_told)
    assert losses_told[-1] == made.state.best_loss


def test_telemetry_writes_json_lines(tmp_path):
    told, before = Telemetry(tmp_path, 100), time.time()
    told.report("days", 10, {"loss/days": 1.23456789, "rate/days": 1e-3})
    told.report("days", 20, {"loss/days": 1.0})
    told.picture("weeks", 20, np.zeros((2, 1, 100)), np.ones((5, 1, 100)), 20)
    told.close()
    first, second = (json.loads(line) for line in (tmp_path / PROGRESS_FILE).read_text().splitlines())
    assert (first["stage"], first["series_seen"], first["total_series"]) == ("days", 10, 100)
    assert first["loss/days"] == 1.23457
    assert before - 0.1 <= first["time"] <= second["time"] <= time.time() + 0.1
    assert first["seconds_left"] is None
    assert second["seconds_left"] >= 0
    assert list(tmp_path.glob("events.out.tfevents*"))
    Telemetry(None, 1).report("days", 1, {})


def test_speed_told_is_that_of_the_stage(tmp_path, monkeypatch):
    """The estimate for a stage ignores the ten seconds between two stages and the hundred seconds before."""
    clock = [0.0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: clock[0])
    told = Telemetry(tmp_path, 100)
    for moment, stage, seen, doing in (
        (0.0, "encoder", 10, ""), (100.0, "encoder", 20, ""), (101.0, "days", 20, "grouping"),
        (111.0, "days", 30, ""), (112.0, "days", 40, ""),
    ):  # fmt: skip
        clock[0] = moment
        told.report(stage, seen, {}, doing)
    told.close()
    lines = [json.loads(line) for line in (tmp_path / PROGRESS_FILE).read_text().splitlines()]
    assert [line["series_per_second"] for line in lines] == [0, 0.1, 0, 0, 10]
    assert lines[-1]["seconds_left"] == 6
    assert [line.get("doing") for line in lines] == [None, None, "grouping", None, None]
