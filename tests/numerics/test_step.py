"""One step, and what is looked at beside it: gradients that no scaler makes good, checksums, other checkpoints."""

import json
import math

import pytest
import torch
from safetensors.torch import load, save

from ttsgan.errors import DataError
from ttsgan.training import step
from ttsgan.training.runtime import LocalRuntime, seal_of
from ttsgan.training.step import Unstable, take_step
from ttsgan.training.telemetry import PROGRESS_FILE, Telemetry

CPU = torch.device("cpu")


def test_a_gradient_that_no_scale_makes_good_is_told(trainer):
    """The loss is finite and its gradient never is: an enabled scaler would skip every step, without a word."""
    made = trainer()
    state = made.state
    state.grad_scalers = {name: torch.amp.GradScaler("cpu", enabled=True) for name in state.optimizers}
    before = [p.clone() for p in state.parameters_of("encoder")]

    def loss(part, _):
        weight = state.parameters_of("encoder")[0]
        return (weight - weight.detach()).abs().sum().sqrt(), {}

    for _ in range(int(math.log2(2.0**16 / step.LEAST_SCALE)) + 1):  # a try at each scale, down to below 1
        take_step(state, "encoder", loss, made.runtime, asks=False)
    with pytest.raises(Unstable, match=r"the gradient of the encoder is (nan|inf).*training\.encoder_lr"):
        take_step(state, "encoder", loss, made.runtime, asks=False)
    assert all(torch.equal(old, new) for old, new in zip(before, state.parameters_of("encoder"), strict=True))


def test_a_checksum_sees_places_and_buffers(trainer):
    encoder, networks = trainer().state.networks.encoder, trainer().state.networks
    first = step._checksum(encoder, CPU)
    assert first == step._checksum(encoder, CPU)
    weight = encoder.embed.weight.detach().view(-1)
    weight[:2] = weight[:2].flip(0).clone()
    assert first != step._checksum(encoder, CPU), "two weights that changed places"
    first = step._checksum(networks, CPU)
    networks.numbers_mean += 1
    assert first != step._checksum(networks, CPU)


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
