"""Training on a GPU matches training on the CPU, in every precision, and a run can move from one to the other.

Needs CUDA: `pytest -m gpu`.
"""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load
from torch import nn

from ttsgan import recipes
from ttsgan.api import TTSGAN
from ttsgan.training import phases, step, transitions
from ttsgan.training.runtime import LocalRuntime, ProcessGroupRuntime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]
PLAIN = (
    "days.dropout=0", "days.last_dropout=0", "training.warmup=0", "loss.mode_seeking=0.1", "loss.drift=0.01",
    "loss.penalty_interval=1",
)  # fmt: skip


SCALE = 1024.0
"""Losses are multiplied by this before gradients are taken, as by a gradient scaler, so that they fit into fp16."""


def gradients(made, phase: str) -> dict[str, torch.Tensor]:
    """Return the gradients of one phase at the start of the adversarial stage, by name, on the CPU."""
    state, rows = made.state, made.fitted_rows[:8]
    batch, rnd = made._adversarial_batch("discriminator")
    parameters = state.parameters[phase]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with step.autocast(made.dtype, made.runtime.device):
        if phase == "encoder":
            value, _ = phases.encoder_loss(state.networks, made.data, rows, rnd.normal(4), made.config)
        elif phase == "days":
            value, _ = phases.days_loss(state.networks, made.data, rows, state.drawn["cond"][0, rows], None)
        elif phase == "discriminator":
            fake = phases.draw_fake(state.networks, batch)
            value, _ = phases.discriminator_loss(state.networks, batch, fake, True, made.config)
        else:
            value, _ = phases.generator_loss(state.networks, state.average, batch, made._noise(rnd), made.config)
    found = torch.autograd.grad(SCALE * value, parameters, allow_unused=True)
    for parameter in parameters:
        parameter.requires_grad_(False)
    names = {id(p): name for name, p in state.networks.named_parameters()}
    pairs = zip(parameters, found, strict=True)
    return {names[id(p)]: torch.zeros(1) if g is None else g.float().cpu() / SCALE for p, g in pairs}


@pytest.fixture
def standing(trainer, folder, adversarial):
    """Make trainers at the start of the adversarial stage on a device, with a pool that was drawn on the CPU."""
    pool = adversarial().state.drawn

    def make(device, *assignments):
        made = trainer(*assignments, runtime=LocalRuntime(device=device))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        made.state.networks.load_state_dict(load(files["networks.safetensors"]))
        made.state.average.load_state_dict(load(files["average.safetensors"]))
        made.state.drawn = {name: tensor.to(device) for name, tensor in pool.items()}
        made.state.stage = 2
        made.state.networks.train()
        nn.init.constant_(made.state.networks.generator.gain, 0.3)
        return made

    return make


@pytest.mark.parametrize("name", ["hinge", "wgan-gp", "relativistic"])
@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_adversarial_gradients_are_those_of_the_cpu(standing, phase, name):
    here, there = (gradients(standing(device, f"loss.name={name}", *PLAIN), phase) for device in ("cpu", "cuda"))
    assert far(here, there) < 1e-4


@pytest.mark.parametrize("phase", ["encoder", "days"])
def test_gradients_are_those_of_the_cpu(standing, phase):
    here, there = (gradients(standing(device, *PLAIN), phase) for device in ("cpu", "cuda"))
    assert far(here, there) < 1e-4


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.05), ("fp16", 0.01)])
@pytest.mark.parametrize("phase", ["encoder", "days", "discriminator", "generator"])
def test_gradients_of_short_numbers_are_near(standing, phase, precision, limit):
    exact = gradients(standing("cpu", *PLAIN), phase)
    short = gradients(standing("cuda", f"training.precision={precision}", *PLAIN), phase)
    assert 0 < far(exact, short) < limit


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the distance between two gradients divided by the norm of the first."""
    assert one.keys() == other.keys()
    flat, other_flat = (torch.cat([g.double().flatten() for g in grads.values()]) for grads in (one, other))
    assert flat.isfinite().all()
    assert other_flat.isfinite().all()
    return float((flat - other_flat).norm() / flat.norm())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_ends_and_learns(trainer, precision):
    runtime = LocalRuntime(device="cuda")
    untrained = trainer(runtime=runtime)
    transitions.make_conditions(untrained.state, untrained.data, runtime)
    made = trainer(f"training.precision={precision}", "training.max_series=960", runtime=runtime)
    state = made.train()
    assert all(p.isfinite().all() for p in state.average.parameters())
    assert state.best_loss < untrained._validate_days() - 0.01
    assert state.grad_scalers["days"].is_enabled() == (precision == "fp16")
    assert {p.device.type for p in state.networks.parameters()} == {"cuda"}


def test_fp16_scale_falls_until_gradients_fit(trainer):
    """A scale far too large makes gradients infinite: such steps are skipped and halve it, and training continues."""
    made = trainer("training.precision=fp16", runtime=LocalRuntime(device="cuda"))
    made._enter()
    scaler = made.state.grad_scalers["encoder"]
    scaler._init_scale = 2.0**60
    before = {k: v.clone() for k, v in made.state.networks.encoder.state_dict().items()}
    made._encoder_step()
    assert scaler.get_scale() == 2.0**59
    assert all(torch.equal(v, before[k]) for k, v in made.state.networks.encoder.state_dict().items())


def test_a_checkpoint_goes_on_where_there_is_another_kind_of_machine(trainer, two_stages, tmp_path):
    """Saved on the GPU after two stages and resumed on the CPU, and the other way round; both train to the end."""
    for first, second in (("cuda", "cpu"), ("cpu", "cuda")):
        began = two_stages(trainer(runtime=LocalRuntime(device=first)))
        where = tmp_path / first
        LocalRuntime(where).save("middle", began.state.files(), {})
        state = trainer(runtime=LocalRuntime(where, second)).train()
        assert state.done
        assert {p.device.type for p in state.networks.parameters()} == {second}


def test_training_cut_off_ends_as_in_one_go(trainer, tmp_path):
    """Resumed from the last but one checkpoint; as on the CPU, except that a GPU does not fix the order of sums."""
    settings = ("training.max_series=320", "training.checkpoint_interval=160")
    whole = trainer(*settings, runtime=LocalRuntime(tmp_path / "whole", "cuda")).train()
    (tmp_path / "cut").mkdir()
    kept = sorted((tmp_path / "whole").iterdir())[0]
    kept.rename(tmp_path / "cut" / kept.name)
    again = trainer(*settings, runtime=LocalRuntime(tmp_path / "cut", "cuda")).train()
    for name, value in whole.networks.state_dict().items():
        torch.testing.assert_close(again.networks.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_estimator_draws_the_same_households_as_on_the_cpu(sample, small_config, tmp_path):
    config = recipes.override(small_config, ["runtime.use_gpu=true", "cluster.min_group_size=10"])
    model = TTSGAN(config).fit(
        sample.values, step_seconds=sample.step_seconds, starts=sample.starts, entities=sample.entities
    )
    drawn = model.sample(16)
    assert np.isfinite(drawn).all()
    model.save(tmp_path)
    assert TTSGAN.load(tmp_path, "cuda").model_.networks.device.type == "cuda"
    here = TTSGAN.load(tmp_path)
    assert here.model_.networks.device.type == "cpu"
    latents = here.model_.encode(sample.values, sample.starts)
    np.testing.assert_allclose(latents, model.model_.encode(sample.values, sample.starts), atol=1e-3)
    # A value that is rounded differently can change the component of a day, and so all days after it.
    np.testing.assert_allclose(here.sample(16).mean((1, 2)), drawn.mean((1, 2)), rtol=0.02)


def test_messages_between_workers_of_gpus(tmp_path):
    """The collectives through NCCL, with every type that training sends; with one GPU there is only one worker."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        runtime = ProcessGroupRuntime(device="cuda")
        one, two = torch.tensor([1.0, 2.0], device="cuda"), torch.ones(3, 2, device="cuda").double().T
        runtime.mean([one, two])
        runtime.broadcast([one])
        assert one.tolist() == [1.0, 2.0]
        assert torch.equal(runtime.gather(two), two)
    finally:
        dist.destroy_process_group()


def test_run_on_a_gpu(tmp_path):
    """A whole run through Ray: one worker with the GPU trains, encodes and draws."""
    from ray_jobs.cli import main

    settings = (
        "sample.households=120", "training.max_series=192", "training.encoder_share=0.34", "training.days_share=0.33",
        "encoder.width=16", "days.width=16", "days.depth=1", "generator.width=16", "discriminator.width=16",
        "evaluate.bootstrap=20", "cluster.min_group_size=10", "runtime.use_gpu=true", "runtime.num_workers=1",
    )  # fmt: skip
    status = main(["run", "--data", "sample", "--out", str(tmp_path / "run"), "--set", *settings])
    assert status == 3
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["verdict"] in ("UNPROVEN", "FAIL")
