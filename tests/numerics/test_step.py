"""A single step and the checks around it: gradients that no scale makes finite, checksums, checkpoints, logs."""

import errno
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load, save

from ttsgan import recipes
from ttsgan.errors import DataError
from ttsgan.training import step
from ttsgan.training.consistency import check_equal
from ttsgan.training.runtime import LocalRuntime, seal_of
from ttsgan.training.state import COSTS, STAGES, stage_series, work_left
from ttsgan.training.step import Unstable, take_step
from ttsgan.training.telemetry import PROGRESS_FILE, Telemetry

CPU = torch.device("cpu")


def test_a_gradient_that_no_scale_makes_good_is_told(trainer):
    """The loss is finite but its gradient never is: an enabled scaler would silently skip every step."""
    made = trainer()
    state = made.state
    state.grad_scalers = {name: torch.amp.GradScaler("cpu", enabled=True) for name in state.optimizers}
    before = [p.clone() for p in state.parameters["encoder"]]

    def loss(part):
        weight = state.parameters["encoder"][0]
        return (weight - weight.detach()).abs().sum().sqrt(), {}

    for _ in range(int(math.log2(2.0**16 / step.LEAST_SCALE)) + 1):  # one step at each scale, down to below 1
        take_step(state, "encoder", loss, made.runtime)
    with pytest.raises(Unstable, match=r"the gradient of the encoder is (nan|inf).*training\.encoder_lr"):
        take_step(state, "encoder", loss, made.runtime)
    assert all(torch.equal(old, new) for old, new in zip(before, state.parameters["encoder"], strict=True))


def test_a_checksum_sees_places_and_buffers(trainer):
    state, told = trainer().state, []

    def sums():
        check_equal(state, SimpleNamespace(world_size=2, device=CPU, gather=lambda own: told.append(own) or own))
        return told[-1].clone()

    first = sums()
    assert (first == sums()).all()
    weight = state.networks.encoder.embed.weight.detach().view(-1)
    weight[:2] = weight[:2].flip(0).clone()
    assert (first != sums()).sum() == 1, "two weights that changed places"
    for networks in (state.networks, state.average):
        for held in (networks.numbers_mean, networks.latent_std, networks.correction):
            before = sums()
            held += 1
            assert (before != sums()).sum() == 1, "what the networks hold beside their parts"


def test_a_whole_checkpoint_of_other_code_is_named(trainer, tmp_path):
    made = trainer(runtime=LocalRuntime(tmp_path))
    files = made.state.files()
    tensors = load(files["networks.safetensors"]) | {"old.weight": torch.zeros(2)}
    made.runtime.save("000000000_0", files | {"networks.safetensors": save(tensors)}, {})
    with pytest.raises(DataError, match=r"checkpoint_000000000_0 is whole and of other networks.*old\.weight"):
        trainer(runtime=LocalRuntime(tmp_path)).train()
    assert seal_of(files) != seal_of({})


def test_parts_of_a_batch_may_change_between_checkpoints(trainer, tmp_path):
    made = trainer("training.batch_size=8", runtime=LocalRuntime(tmp_path))
    made.runtime.save("000000000_0", made.state.files(), {})
    other = trainer("training.batch_size=8", "training.accumulation=2", "training.checksum_interval=7")
    other.state.load(tmp_path / "checkpoint_000000000_0")


def test_progress_is_json_whatever_the_figures_are(tmp_path):
    told = Telemetry(tmp_path, 10)
    told.report("days", 1, {"gradient_norm/days": math.inf, "loss/days": math.nan, "rate/days": 0.5})
    told.close()
    line = (tmp_path / PROGRESS_FILE).read_text()
    said = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (said["gradient_norm/days"], said["loss/days"], said["rate/days"]) == (None, None, 0.5)


def test_a_log_that_cannot_be_written_does_not_end_training(tmp_path, monkeypatch, caplog):
    """One error in the JSON lines and one in TensorBoard's file: reported once, and later entries are written."""
    told = Telemetry(tmp_path, 100)
    told.report("days", 10, {"loss/days": 1.0})
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    told.report("days", 20, {})
    told.report("days", 30, {})
    monkeypatch.setattr(Path, "open", opened)
    told.report("days", 40, {})
    told.writer.add_scalar = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    told.report("days", 50, {"loss/days": 1.0})
    told.report("days", 60, {"loss/days": 1.0})
    told.close()
    lines = [json.loads(line)["series_seen"] for line in (tmp_path / PROGRESS_FILE).read_text().splitlines()]
    assert lines == [10, 40, 50, 60]
    warned = [record.getMessage() for record in caplog.records if "progress cannot be written" in record.getMessage()]
    assert len(warned) == 2
    assert "No space left on device" in warned[1]


def test_what_is_left_costs_more_in_the_last_stage(small_config):
    training = recipes.override(small_config, ["training.max_series=1600"]).training
    sizes = {stage: stage_series(training, stage) for stage in STAGES}
    days_end = sizes["encoder"] + sizes["days"]
    assert work_left(training, "adversarial", days_end) == sizes["adversarial"]
    assert work_left(training, "days", days_end - 8) == 8 + COSTS["adversarial"] * sizes["adversarial"]
    assert work_left(training, "encoder", 0) == sum(COSTS[stage] * size for stage, size in sizes.items())
    assert work_left(training, "adversarial", days_end + sizes["adversarial"]) == 0


def test_nothing_in_a_checkpoint_runs_code_when_it_is_read(trainer, tmp_path):
    """Weights are safetensors; the rest is loaded with weights only, so that an object of another class is refused."""
    made = trainer(runtime=LocalRuntime(tmp_path))
    files = made.state.files()
    assert {name.split(".")[-1] for name in files} == {"safetensors", "pt", "json"}
    held = io.BytesIO()
    torch.save({"optimizers": Path("/"), "grad_scalers": {}}, held)
    made.runtime.save("000000000_0", files | {"optimizers.pt": held.getvalue()}, {})
    with pytest.raises(DataError, match="Weights only load failed"):
        made.state.load(tmp_path / "checkpoint_000000000_0")


def test_gradients_are_unscaled_before_they_are_clipped(trainer):
    """With a scale of 2^16, a gradient of norm 1/2 is not clipped to 1; the step is the same as without a scaler."""
    steps = {}
    for enabled in (False, True):
        state = (made := trainer("training.grad_clip=1.0")).state
        state.grad_scalers = {name: torch.amp.GradScaler("cpu", enabled=enabled) for name in state.optimizers}
        first = state.parameters["encoder"][0]

        def loss(part, first=first):
            return 0.5 * first.view(-1)[0], {}

        figures = take_step(state, "encoder", loss, made.runtime)
        steps[enabled] = figures["gradient_norm/encoder"], first.detach().clone()
    assert steps[False][0] == steps[True][0] == 0.5
    torch.testing.assert_close(steps[True][1], steps[False][1])
