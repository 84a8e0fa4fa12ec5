"""What every network must do, over several shapes of data; then what each one alone must do.

Shapes: the year in 4-hour means, a length that ends within a token, odd patches, one point per token, two channels.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from ttsgan import recipes
from ttsgan.config import EncoderConfig, GeneratorConfig
from ttsgan.models import ema
from ttsgan.models.discriminator import Discriminator
from ttsgan.models.encoder import Decoder, Encoder
from ttsgan.models.generator import Branch, Generator
from ttsgan.models.layers import by_week
from ttsgan.models.networks import Networks, SeriesShape
from ttsgan.models.patching import patchify

F, H, Z, B = 13, 5, 4, 6
SHAPES = {
    "year": (1, 2190, 6),
    "padded": (1, 250, 6),
    "odd patch": (2, 105, 7),
    "points": (1, 40, 1),
    "padded channels": (3, 100, 9),
}


def shape_of(channels, length, patch, week=7) -> SeriesShape:
    return SeriesShape(channels=channels, length=length, patch_size=patch, week=week, num_features=F, num_numbers=H)


def networks(name="odd patch", noise="prior", seed=0, **more) -> Networks:
    torch.manual_seed(seed)
    config = recipes.from_dict(
        {
            "encoder": {"width": 16, "depth": 2, "heads": 2, "latent_dim": Z, "dropout": 0.1},
            "days": {"width": 16, "depth": 1, "heads": 2, "memory": 5, "mixtures": 3},
            "generator": {"width": 8, "heads": 2, "noise_dim": 3, "noise": noise},
            "discriminator": {"width": 8, "depth": 3, "heads": 2},
            **more,
        }
    )
    return Networks(config, shape_of(*SHAPES[name])).eval()


class Call:
    """One way to run one network: its inputs by name, and its outputs as a tuple."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.shape = kind, shape_of(*SHAPES[name])
        whole = networks(name, noise="white" if kind == "generator white" else "prior")
        if "prior" in kind:
            nn.init.constant_(whole.generator.gain, 0.7)  # a generator that has begun to learn
        self.module: nn.Module = getattr(whole, kind.split()[0])
        g = torch.Generator().manual_seed(3)
        n, p = self.shape.num_tokens, self.shape.points

        def normal(*size: int) -> Tensor:
            return torch.randn(B, *size, generator=g)

        series, calendar = normal(n, p), normal(n, F)
        self.inputs: dict[str, Tensor] = {
            "encoder": {"scores": series, "seen": normal(n, p) > -1, "calendar": calendar, "numbers": normal(H)},
            "decoder": {"latent": normal(Z), "calendar": calendar},
            "days": {"residual": series, "regular": normal(n, p), "calendar": calendar, "static": normal(H + Z)},
            "discriminator": {"scores": series, "calendar": calendar, "cond": normal(Z)},
            "generator": {
                "tokens": normal(n, 3), "series": normal(3), "cond": normal(Z), "numbers": normal(H),
                "calendar": calendar, "base": series,
            },
        }[kind.split()[0]]  # fmt: skip
        if kind == "generator white":
            del self.inputs["base"]

    def __call__(self, **changed: Tensor) -> tuple[Tensor, ...]:
        made = self.inputs | changed
        if self.kind.startswith("generator"):
            noise = (made.pop("tokens"), made.pop("series"))
            out = self.module(noise, made["cond"], made["numbers"], made["calendar"], made.get("base"))
        else:
            out = self.module(*made.values())
        return (out,) if isinstance(out, Tensor) else tuple(out)

    def wanted(self) -> list[tuple[int, ...]]:
        n, p = self.shape.num_tokens, self.shape.points
        return {
            "encoder": [(B, Z), (B, Z)],
            "decoder": [(B, n, p), (B, H)],
            "days": [(B, n, p, 3)] * 3,
            "discriminator": [(B,), (B, n)],
            "generator": [(B, n, p)],
        }[self.kind.split()[0]]


KINDS = ["encoder", "decoder", "days", "discriminator", "generator prior", "generator white"]


@pytest.fixture(params=[(k, s) for k in KINDS for s in SHAPES], ids=lambda x: f"{x[0]}-{x[1]}", scope="module")
def call(request) -> Call:
    return Call(*request.param)


def test_shapes_and_types(call):
    out = call()
    assert [tuple(t.shape) for t in out] == call.wanted()
    assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in out)


def test_every_parameter_gets_a_finite_gradient(call):
    call.module.zero_grad()
    weights = torch.Generator().manual_seed(4)
    sum((t * torch.randn(t.shape, generator=weights)).sum() for t in call()).backward()
    untouched = set()
    for name, parameter in call.module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not parameter.grad.any():
            untouched.add(name)
    call.module.zero_grad()
    if call.shape.points == 1:
        untouched -= {"values.from_before"}  # a token of one value has none before it
    assert not untouched


def test_evaluation_is_deterministic(call):
    for one, other in zip(call(), call(), strict=True):
        assert torch.equal(one, other)


def test_state_dict_round_trip(call):
    other = Call(call.kind, next(name for name, s in SHAPES.items() if shape_of(*s) == call.shape))
    for parameter in other.module.parameters():
        nn.init.normal_(parameter)
    other.module.load_state_dict(call.module.state_dict())
    for one, again in zip(call(), other(), strict=True):
        assert torch.equal(one, again)


def test_series_do_not_see_each_other(call):
    """Change all series but one: that one's outputs stay; permute them: the outputs follow."""
    before = call()
    noise = {k: torch.cat([v[:2], torch.randn(v[2:].shape).to(v.dtype)]) for k, v in call.inputs.items()}
    for one, other in zip(before, call(**noise), strict=True):
        torch.testing.assert_close(one[:2], other[:2], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(one[2:], other[2:])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for one, other in zip(before, call(**{k: v[order] for k, v in call.inputs.items()}), strict=True):
        torch.testing.assert_close(one[order], other, atol=1e-5, rtol=1e-5)


def test_every_input_matters(call):
    """No input is ignored, whichever series it belongs to."""
    before = call()
    for name, held in call.inputs.items():
        if call.kind == "decoder" and name == "calendar":
            changed = call(calendar=held + 1)[:1]
        else:
            changed = call(**{name: ~held if held.dtype == torch.bool else held + 1})
        assert any(not torch.allclose(a, b, atol=1e-5) for a, b in zip(before, changed, strict=False)), name


# ---- encoder ---------------------------------------------------------------------------------------------------------


def test_missing_values_have_no_say_in_the_latent():
    call = Call("encoder", "padded")
    scores, seen = call.inputs["scores"], call.inputs["seen"]
    hidden = torch.where(seen, scores, torch.full_like(scores, 99.0))
    for one, other in zip(call(), call(scores=hidden), strict=True):
        assert torch.equal(one, other)


def test_latent_of_a_series_without_any_value_is_finite():
    call = Call("encoder", "padded")
    assert all(torch.isfinite(t).all() for t in call(seen=torch.zeros_like(call.inputs["seen"])))


def test_a_week_without_values_has_no_say_in_the_latent():
    """Not even through its dates: days see each other within their week only, and this week's mean is of none."""
    call = Call("encoder", "points")
    seen, scores, calendar = (call.inputs[name].clone() for name in ("seen", "scores", "calendar"))
    seen[:, 7:14] = False
    before = call(seen=seen)
    scores[:, 7:14] = 9.0
    calendar[:, 7:14] += 1.0
    for one, other in zip(before, call(seen=seen, scores=scores, calendar=calendar), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("week", "tokens"), [(1, 3), (2, 3), (7, 1), (7, 15), (168, 24)])
def test_weeks_of_any_length_give_a_latent(week, tokens, depth):
    """Tokens of several days, of an hour, and series shorter than a week."""
    torch.manual_seed(0)
    config = EncoderConfig(width=8, heads=2, depth=depth, latent_dim=Z)
    module = Encoder(config, 2, F, H, week).eval()
    inputs = torch.randn(B, tokens, 2), torch.ones(B, tokens, 2, dtype=torch.bool), torch.randn(B, tokens, F)
    mu, logvar = module(*inputs, torch.randn(B, H))
    assert mu.shape == logvar.shape == (B, Z)
    (mu.sum() + logvar.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    assert by_week(inputs[0], week).shape[2] == min(week, tokens)


def test_logvar_is_bounded():
    call = Call("encoder", "points")
    nn.init.constant_(call.module.to_posterior.bias, 1e4)
    assert call()[1].max() == 4.0


# ---- generator -------------------------------------------------------------------------------------------------------


def test_prior_noise_starts_as_no_correction():
    call = Call("generator prior", "padded")
    nn.init.zeros_(call.module.gain)
    (made,) = call()
    assert torch.equal(made, call.inputs["base"])
    fresh = networks("padded").generator
    assert not fresh.gain.any()
    assert networks("padded", noise="white").generator.gain.all()


def test_white_noise_starts_as_a_series():
    (made,) = Call("generator white", "year")()
    assert 0.3 < made.std() < 3
    assert made.std(0).mean() > 0.05


@pytest.mark.parametrize("limit", [0.3, 2.0])
def test_correction_stays_in_its_region(limit):
    torch.manual_seed(0)
    config = GeneratorConfig(width=8, heads=2, noise_dim=3, correction_limit=limit)
    g = Generator(config, num_tokens=10, patch_size=4, channels=1, num_features=F, latent_dim=Z, num_numbers=H).eval()
    nn.init.constant_(g.gain, 1e3)
    base = torch.randn(B, 10, 4)
    made = g(
        g.draw_noise(B, torch.Generator(), "cpu"), torch.randn(B, Z), torch.randn(B, H), torch.randn(B, 10, F), base
    )
    assert limit * 0.9 < (made - base).abs().max() <= limit * 1.0001


def test_noise_is_standard_normal_and_seeded():
    g = networks().generator
    first, again, other = (g.draw_noise(200, torch.Generator().manual_seed(s), "cpu") for s in (1, 1, 2))
    tokens, series = first
    assert tokens.shape == (200, g.num_tokens, 3)
    assert series.shape == (200, 3)
    assert torch.equal(tokens, again[0])
    assert not torch.equal(tokens, other[0])
    assert abs(tokens.mean()) < 0.05
    assert abs(tokens.std() - 1) < 0.05
    assert abs(torch.corrcoef(torch.stack([tokens[:, 0, 0], series[:, 0]]))[0, 1]) < 0.25


def test_branches_see_days_weeks_and_months():
    g = networks("year").generator
    assert {name: len(b.positions) for name, b in g.branches.items()} == {"full": 365, "medium": 53, "small": 13}


@pytest.mark.parametrize("pooled", [1, 7, 30])
@pytest.mark.parametrize("tokens", [1, 5, 42, 365])
def test_branches_pool_and_stretch_as_torch_does(tokens, pooled):
    torch.manual_seed(0)
    branch = Branch(GeneratorConfig(width=8, heads=2), tokens, pooled)
    branch.blocks = nn.ModuleList()
    x_BDN = torch.randn(3, 8, tokens)
    means = nn.functional.adaptive_avg_pool1d(x_BDN, len(branch.positions)) + branch.positions.T
    torch.testing.assert_close(
        branch(x_BDN.mT), nn.functional.interpolate(means, size=tokens, mode="linear").mT, rtol=1e-5, atol=1e-6
    )


def test_points_are_written_where_their_token_stands():
    """A change of one token's noise is felt there, most of all, when the branches are off."""
    call = Call("generator white", "odd patch")
    nn.init.zeros_(call.module.branch_weight)
    changed = call.inputs["tokens"].clone()
    changed[:, 6] += 1
    apart = (call(tokens=changed)[0] - call()[0]).abs().sum((0, 2))
    assert apart.argmax() == 6
    assert set(torch.nonzero(apart > 1e-6)[:, 0].tolist()) <= {5, 6, 7}


# ---- discriminator ---------------------------------------------------------------------------------------------------


def test_local_logits_see_their_neighbourhood_only():
    call = Call("discriminator", "year")
    changed = call.inputs["scores"].clone()
    changed[:, 100] += 1
    year, days = (a != b for a, b in zip(call(), call(scores=changed), strict=True))
    moved = torch.nonzero((call()[1] - call(scores=changed)[1]).abs().sum(0) > 1e-6)[:, 0]
    assert year.all()
    assert days[:, 100].all()
    assert (moved - 100).abs().max() <= 6


def test_a_series_of_equal_weeks_is_visible():
    """The year's logit sees the spread over the year: shuffled weeks and their mean differ."""
    call = Call("discriminator", "year")
    level = call.inputs["scores"][:, :7].repeat(1, 53, 1)[:, :365]
    same = call.inputs["calendar"][:, :7].repeat(1, 53, 1)[:, :365]
    flat, varied = call(scores=level, calendar=same)[0], call(calendar=same)[0]
    assert (flat - varied).abs().min() > 1e-4


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_discriminator_of_any_depth(depth):
    whole = networks("padded", discriminator={"width": 8, "depth": depth, "heads": 2})
    d: Discriminator = whole.discriminator
    assert (len(d.local_blocks), len(d.global_blocks)) == ((depth + 1) // 2, depth // 2)


# ---- together --------------------------------------------------------------------------------------------------------


def test_patched_channels_reach_their_own_points():
    """The generator's channels come out as `patchify` lays them."""
    x = torch.arange(2 * 3 * 18.0).view(2, 3, 18)
    tokens = patchify(x, 9)
    g = networks("padded channels").generator
    assert (g.channels, g.patch_size) == (3, 9)
    drawn = x.unflatten(-1, (2, 9)).transpose(1, 2).flatten(2)
    assert torch.equal(drawn, tokens)


def test_standard_numbers_and_latents():
    whole = networks()
    numbers = torch.randn(50, H) * 3 + 7
    numbers[:, 2] = 4.0  # a number that does not vary
    whole.fit_numbers(numbers)
    made = whole.standard_numbers(numbers)
    torch.testing.assert_close(made.mean(0), torch.zeros(H), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std(0, unbiased=False)[[0, 1, 3, 4]], torch.ones(4))
    assert not made[:, 2].any()
    whole.fit_latents(torch.full((9, Z), 2.0))
    assert torch.equal(whole.standard_latents(torch.full((1, Z), 2.0)), torch.zeros(1, Z))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_share_of_the_correction(share):
    whole = networks("padded")
    nn.init.constant_(whole.generator.gain, 1.0)
    whole.correction.fill_(share)
    n, p = whole.shape.num_tokens, whole.shape.points
    noise, base = whole.generator.draw_noise(B, torch.Generator(), "cpu"), torch.randn(B, n, p)
    rest = torch.randn(B, Z), torch.randn(B, H), torch.randn(B, n, F)
    made = whole.write_scores(noise, *rest, base)
    assert (made is base) == (share == 0), "without a correction the generator need not run"
    torch.testing.assert_close(made, base + share * (whole.generator(noise, *rest, base) - base))


def test_every_weight_is_saved_and_nothing_else_is_needed():
    one, other = networks(seed=1), networks(seed=2)
    other.load_state_dict(one.state_dict())
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_decoder_days_differ_by_the_calendar():
    d = Decoder(recipes.quick().encoder, 6, F, H).eval()
    days, numbers = d(torch.zeros(2, 16), torch.eye(F)[None].expand(2, -1, -1))
    assert days.shape == (2, F, 6)
    assert torch.equal(numbers[0], numbers[1])
    assert days[0].std(0).min() > 1e-4


# ---- average ---------------------------------------------------------------------------------------------------------


def test_average_has_a_closed_form():
    """Constant weights seen after zeros: the old weight falls by half every ``half_life`` series."""
    mean, new = nn.Linear(2, 1), nn.Linear(2, 1)
    nn.init.zeros_(mean.weight)
    nn.init.ones_(new.weight)
    average = ema.MovingAverage([mean], [new], half_life=100)
    for _ in range(30):
        average.update(series=10, series_seen=100_000)
    torch.testing.assert_close(mean.weight, torch.full((1, 2), 1 - 0.5**3))


def test_average_of_moving_weights():
    mean, new = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    wanted, seen, keeps = mean.weight.item(), 0, []
    average = ema.MovingAverage([mean], [new], half_life=50)
    for step in range(20):
        nn.init.constant_(new.weight, math.sin(step))
        seen += 8
        average.update(8, seen)
        keep = 0.5 ** (8 / min(50, max(seen / 4, 1)))
        keeps.append(keep)
        wanted = keep * wanted + (1 - keep) * math.sin(step)
    assert mean.weight.item() == pytest.approx(wanted, abs=1e-12)
    assert keeps[0] == pytest.approx(0.5**4)
    assert keeps == sorted(keeps)


def test_average_copies_buffers_and_needs_no_gradient():
    mean, new = networks().generator, networks(seed=1).generator
    new.train()
    new.requires_grad_(True)
    ema.MovingAverage([mean], [new], 50).update(8, 8)
    for a, b in zip(mean.buffers(), new.buffers(), strict=True):
        assert torch.equal(a, b)
    assert all(p.grad_fn is None for p in mean.parameters())
