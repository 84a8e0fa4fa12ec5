"""A stage that diverges is rolled back to its last checkpoint with lower learning rates, at most three times.

The rollback of two workers together is tested in test_ddp.py.
"""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch

from ttsgan import losses
from ttsgan.errors import DivergedError
from ttsgan.training import phases
from ttsgan.training.loop import MAX_ROLLBACKS
from ttsgan.training.runtime import LocalRuntime
from ttsgan.training.step import rate_factor
from ttsgan.training.telemetry import PROGRESS_FILE, Telemetry

SETTINGS = ("training.checkpoint_interval=16", "training.log_interval=8", "training.encoder_share=0.5")
"""The encoder takes 64 series, which are eight steps, with a checkpoint after every second step."""


@pytest.fixture
def spoiled(monkeypatch):
    """Make a phase's loss NaN where ``when`` is true of the trainer's state; return the batches that the phase saw."""

    def spoil(made, phase, when) -> list[SimpleNamespace]:
        real, seen = getattr(phases, f"{phase}_loss"), []

        def loss(networks, data, rows, *others, **named):
            state = made.state
            seen.append(SimpleNamespace(at=state.series_seen, rollbacks=state.rollbacks, rows=rows.tolist()))
            total, figures = real(networks, data, rows, *others, **named)
            return (total * math.nan if when(state) else total), figures

        monkeypatch.setattr(phases, f"{phase}_loss", loss)
        return seen

    return spoil


def once(state) -> bool:
    return state.series_seen == 40 and state.rollbacks == 0


def kept(state) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in (state.networks.state_dict() | state.average.state_dict()).items()}


def test_a_loss_that_is_nan_once_is_recovered_from(trainer, spoiled, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    made = trainer(*SETTINGS, runtime=LocalRuntime(tmp_path))
    seen = spoiled(made, "encoder", once)
    state = made.train()
    assert state.done
    assert [(s.at, s.rollbacks) for s in seen] == [
        *((at, 0) for at in range(0, 48, 8)),
        *((a, 1) for a in (32, 40, 48, 56)),
    ]
    twice = {at: [s.rows for s in seen if s.at == at] for at in (32, 40)}
    assert all(first != second for first, second in twice.values()), "other batches than those that led astray"
    told = "the loss of the encoder is nan after 40 series; going back to 32 series, with 0.5 times the rates"
    assert told in caplog.text
    assert ("encoder", 32, {"rollbacks": 1, "rate_factor": 0.5}) in made.telemetry.lines
    rates = [(at, f["rate/encoder"]) for stage, at, f in made.telemetry.lines if "rate/encoder" in f]
    assert [at for at, _ in rates] == [8, 16, 24, 32, 40, 40, 48, 56, 64]
    wanted = [
        0.002 * 0.5 ** (i > 4) * rate_factor(made.config.training, (at - 4) / 64) for i, (at, _) in enumerate(rates)
    ]
    assert [rate for _, rate in rates] == pytest.approx(wanted)
    days = [f["rate/days"] for *_, f in made.telemetry.lines if "rate/days" in f]
    assert max(days) > 1e-3, "the next stage has its own rates again"
    assert state.rollbacks == 0


def test_what_it_goes_back_to_is_the_checkpoint_on_the_disk(trainer, spoiled, tmp_path, monkeypatch):
    made = trainer(*SETTINGS, runtime=LocalRuntime(tmp_path))
    spoiled(made, "encoder", lambda s: s.series_seen == 40)
    read = {}
    real = made.state.restore

    def restore(files):
        read.update(files)
        real(files)

    monkeypatch.setattr(made.state, "restore", restore)
    with pytest.raises(DivergedError):
        made.train()
    newest = sorted(tmp_path.iterdir())[-1]
    assert newest.name == "checkpoint_000000032_0"
    assert read == {p.name: p.read_bytes() for p in newest.iterdir() if p.name != "seal.json"}


@pytest.mark.parametrize("at", [0, 40])
def test_a_loss_that_stays_nan_ends_training_after_three_rollbacks(trainer, spoiled, at):
    made = trainer(*SETTINGS)
    seen = spoiled(made, "encoder", lambda s: s.series_seen == at)
    with pytest.raises(DivergedError) as caught:
        made.train()
    assert str(caught.value) == (
        f"the loss of the encoder is nan after {at} series, after 3 rollbacks, each with rates 0.5 times those before; "
        "lower training.encoder_lr (now 0.002), and start over"
    )
    assert [s.rollbacks for s in seen if s.at == at] == list(range(MAX_ROLLBACKS + 1))
    assert len({tuple(s.rows) for s in seen if s.at == at}) == MAX_ROLLBACKS + 1
    told = [figures for *_, figures in made.telemetry.lines if "rate_factor" in figures]
    assert told == [{"rollbacks": n, "rate_factor": 0.5**n} for n in (1, 2, 3)]


def test_the_start_of_a_later_stage_is_gone_back_to(trainer, spoiled):
    made = trainer(*SETTINGS, "training.checkpoint_interval=1000")
    spoiled(made, "days", lambda s: s.series_seen == 0 and s.rollbacks < 2)
    assert made.train().done
    assert ("days", 64, {"rollbacks": 2, "rate_factor": 0.25}) in made.telemetry.lines


def test_cut_off_after_a_rollback_changes_nothing(trainer, spoiled, tmp_path, monkeypatch):
    """Killed one step after a rollback and restarted from the checkpoint: the same rollback, bit for bit."""
    straight = trainer(*SETTINGS)
    spoiled(straight, "encoder", once)
    wanted = kept(straight.train())

    cut = trainer(*SETTINGS, runtime=LocalRuntime(tmp_path))
    spoiled(cut, "encoder", once)
    real = cut._compare_workers

    def killed():
        if cut.state.rollbacks and cut.state.series_seen == 40:
            raise KeyboardInterrupt
        real()

    monkeypatch.setattr(cut, "_compare_workers", killed)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    again = trainer(*SETTINGS, runtime=LocalRuntime(tmp_path))
    spoiled(again, "encoder", once)
    made = kept(again.train())
    assert [name for name in wanted if not torch.equal(wanted[name], made[name])] == []


def test_cut_off_later_remembers_the_rollback(trainer, spoiled, tmp_path):
    """Checkpoints after a rollback record it, so that rates and batches stay those of the uninterrupted run."""
    straight = trainer(*SETTINGS)
    spoiled(straight, "encoder", once)
    wanted = kept(straight.train())
    cut = trainer(*SETTINGS, runtime=LocalRuntime(tmp_path))
    seen = spoiled(cut, "encoder", once)
    real = cut.runtime.save

    def killed(*checkpoint):
        real(*checkpoint)
        if cut.state.series_seen == 48:
            raise KeyboardInterrupt

    cut.runtime.save = killed
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert seen[-1].rollbacks == 1
    again = trainer(*SETTINGS, runtime=LocalRuntime(tmp_path))
    made = kept(again.train())
    assert [name for name in wanted if not torch.equal(wanted[name], made[name])] == []


def test_a_collapsed_generator_goes_back_to_one_that_was_not(adversarial, monkeypatch, tmp_path):
    """No spread at all until the first rollback: checkpoints from the decline are not rolled back to."""
    made = adversarial("training.max_series=480", "training.checkpoint_interval=8")
    made.runtime = LocalRuntime(tmp_path)
    made._save()
    start = made.state.total_series
    monkeypatch.setattr(losses, "diversity", lambda *_: torch.tensor(float(made.state.rollbacks)))
    assert made.train().done
    back = [at for _, at, figures in made.telemetry.lines if "rate_factor" in figures]
    # The running mean is 0.9 ** n after n steps: 0.206 after 15 steps, below the floor of 0.2 after 16.
    assert back == [start + 15 * 8]


def test_progress_after_going_back_is_told_from_there(tmp_path):
    told = Telemetry(tmp_path, 100)
    for at in (10, 20, 30):
        told.report("days", at, {})
    told.report("days", 20, {"rollbacks": 1, "rate_factor": 0.5})
    told.report("days", 30, {"rollbacks": 1})
    told.close()
    lines = [json.loads(line) for line in (tmp_path / PROGRESS_FILE).read_text().splitlines()]
    assert [line["series_seen"] for line in lines] == [10, 20, 30, 20, 30]
    assert lines[3]["series_per_second"] == 0
    assert lines[4]["series_per_second"] > 0
