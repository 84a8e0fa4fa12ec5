"""Training with matrix products in 16 bits, at toy size on a CPU; test_gpu.py covers the GPU."""

import pytest
import torch

from ttsgan.training import phases, step
from ttsgan.training import runtime as runtimes
from ttsgan.training.runtime import LocalRuntime

CPU = torch.device("cpu")
SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}
FP16 = ("training.precision=fp16", "training.checkpoint_interval=8")


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    """Allow fp16 on a CPU, which is otherwise refused as too slow."""
    monkeypatch.setattr(step, "check_precision", lambda *_: None)


def everything(state) -> dict[str, object]:
    held = {**state.networks.state_dict(), **{f"average.{k}": v for k, v in state.average.state_dict().items()}}
    scalers = {f"scaler.{name}": scaler.state_dict() for name, scaler in state.grad_scalers.items()}
    return {k: v.clone() for k, v in held.items()} | scalers


def scales(state) -> dict[str, float]:
    return {name: scaler.get_scale() for name, scaler in state.grad_scalers.items()}


@pytest.mark.parametrize("precision", SHORT)
def test_training_in_16_bits_is_that_of_fp32_but_for_rounding(trainer, precision):
    """Products are in 16 bits, weights and losses in fp32; the prior's loss ends within 1 % of that in fp32."""
    kinds = set()

    def seen(module, given, made):
        kinds.add(made.dtype)

    losses = {}
    for name in ("fp32", precision):
        made = trainer(f"training.precision={name}", "training.max_series=480")
        made.state.networks.days.blocks[0].mlp[0].register_forward_hook(seen)
        state = made.train()
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in state.networks.parameters())
        assert all(s.is_enabled() == (name == "fp16") for s in state.grad_scalers.values())
        losses[name] = state.best_loss
    assert kinds == {torch.float32, SHORT[precision]}
    assert losses[precision] != losses["fp32"]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.01)


@pytest.mark.parametrize("precision", SHORT)
def test_losses_and_the_penalty_stay_in_fp32(adversarial, precision):
    """The gradient penalty within a 16-bit step equals that of fp32 to the last bit."""
    made = adversarial("loss.penalty_interval=1", "loss.mode_seeking=0.1", "loss.drift=0.1")
    networks, config, average = made.state.networks, made.config, made.state.average
    batch, rnd = made._adversarial_batch("discriminator")
    fake, other, rows = phases.draw_fake(networks, batch), made._noise(rnd), made.fitted_rows[:8]
    networks.discriminator.requires_grad_(True)
    told = {}
    for dtype in (torch.float32, SHORT[precision]):
        with step.autocast(dtype, CPU):
            told[dtype] = [
                phases.discriminator_loss(networks, batch, fake, True, config),
                phases.generator_loss(networks, average, batch, other, config),
                phases.encoder_loss(networks, made.data, rows, rnd.normal(config.encoder.latent_dim), config),
                phases.days_loss(networks, made.data, rows, made.state.drawn["cond"][0, rows], None),
            ]
    for value, figures in told[SHORT[precision]]:
        assert value.dtype == torch.float32
        assert {figure.dtype for figure in figures.values()} <= {torch.float32}
    (exact, of_exact), (short, of_short) = (told[dtype][0] for dtype in (torch.float32, SHORT[precision]))
    assert torch.equal(of_exact["discriminator/penalty"], of_short["discriminator/penalty"])
    assert 0 < (exact - short).abs().item() < 0.05


def test_each_optimizer_has_a_scale_of_its_own(trainer, monkeypatch):
    """A discriminator whose gradients are too large skips its first steps, each of which halves its own scale."""
    made, real = trainer(*FP16), phases.discriminator_loss

    def loss(*args):
        value, figures = real(*args)
        return value * 2.0**113, figures  # times 2^16 this is beyond float32

    monkeypatch.setattr(phases, "discriminator_loss", loss)
    for stage in range(2):
        made._enter()
        made.state.stage = stage + 1
    made._enter()
    before = {k: v.clone() for k, v in made.state.networks.discriminator.state_dict().items()}
    made._adversarial_step()
    now = scales(made.state)
    assert now == {"encoder": 2.0**16, "days": 2.0**16, "discriminator": 2.0**15, "generator": 2.0**16}
    assert all(torch.equal(v, before[k]) for k, v in made.state.networks.discriminator.state_dict().items())


@pytest.mark.parametrize("cut", ["000000016_0", "000000064_1", "000000096_2"])
def test_scales_are_kept_in_checkpoints(trainer, tmp_path, monkeypatch, cut):
    """Scales may grow every few steps; a training that is interrupted and resumed ends bit for bit the same."""
    monkeypatch.setattr(runtimes, "KEPT_CHECKPOINTS", 1000)
    whole = trainer(*FP16, runtime=LocalRuntime(tmp_path / "whole"))
    for interval, scaler in enumerate(whole.state.grad_scalers.values(), start=1):
        scaler.set_growth_interval(interval)
    wanted = everything(whole.train())
    assert len({scale for scale in scales(whole.state).values() if scale != 2.0**16}) > 1, "they have moved"
    (tmp_path / "cut").mkdir()
    chosen = next((tmp_path / "whole").glob(f"checkpoint_{cut}"))
    chosen.rename(tmp_path / "cut" / chosen.name)
    made = everything(trainer(*FP16, runtime=LocalRuntime(tmp_path / "cut")).train())
    for name, value in wanted.items():
        assert torch.equal(value, made[name]) if isinstance(value, torch.Tensor) else value == made[name], name
