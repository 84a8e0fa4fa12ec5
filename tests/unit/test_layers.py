"""Blocks, masks, rotary positions and the cache, against attention written out; the temporal prior made of them.

The prior's density and draws are compared with the mixtures of Gaussians that it states.
"""

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn import functional as F

from ttsgan.config import DaysConfig
from ttsgan.models import history
from ttsgan.models.days import DaysPrior
from ttsgan.models.layers import Block, KeyValueCache, causal_mask, dropout, rotary_turns, rotate
from ttsgan.models.patching import num_tokens, patchify, unpatchify
from ttsgan.models.values import BROADEST, LARGEST, SHARPEST, SURENESS

CPU = torch.device("cpu")
F_, H, Z = 13, 5, 4


def block(width=16, heads=2, seed=0, **kwargs):
    torch.manual_seed(seed)
    return Block(width, heads, **kwargs).eval()


def written_out(b: Block, x, mask=None):
    """The block, one head and one pair of tokens at a time, in float64."""
    b, x = b.double(), x.double()
    width, heads = x.shape[-1], b.heads
    e = width // heads
    q, k, v = b.query_key_value(F.layer_norm(x, (width,), b.norm_attention.weight, b.norm_attention.bias)).chunk(3, -1)
    n = torch.arange(x.shape[1], dtype=torch.float64)
    speed = 10_000.0 ** (-2 * torch.arange(e // 2, dtype=torch.float64) / e)
    turn = torch.polar(torch.ones(len(n), e // 2, dtype=torch.float64), n[:, None] * speed)
    out = torch.zeros_like(x)
    for h in range(heads):
        part = slice(h * e, (h + 1) * e)
        q_h, k_h = (torch.complex(t[..., part][..., 0::2], t[..., part][..., 1::2]) * turn for t in (q, k))
        weight = torch.einsum("bne,bme->bnm", q_h, k_h.conj()).real / math.sqrt(e)
        if mask is not None:
            weight = weight.masked_fill(~mask, -torch.inf)
        out[..., part] = weight.softmax(-1) @ v[..., part]
    x = x + b.project(out)
    return x + b.mlp(F.layer_norm(x, (width,), b.norm_mlp.weight, b.norm_mlp.bias))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("width", "heads"), [(16, 2), (16, 1), (24, 4)])
def test_block_is_attention_written_out(masked, width, heads):
    x = torch.randn(3, 11, width, generator=torch.Generator().manual_seed(1))
    mask = causal_mask(11, 4, CPU) if masked else None
    made = block(width, heads)(x, mask)
    torch.testing.assert_close(made.double(), written_out(block(width, heads), x, mask), atol=1e-5, rtol=1e-5)


def test_block_is_torchs_pre_norm_layer_at_position_zero():
    """With one token there is nothing to turn: `nn.TransformerEncoderLayer` with the same weights does the same."""
    b = block().double()
    layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True).double().eval()
    layer.self_attn.in_proj_weight.data = b.query_key_value.weight.data
    nn.init.zeros_(layer.self_attn.in_proj_bias)
    layer.self_attn.out_proj.load_state_dict(b.project.state_dict())
    layer.norm1.load_state_dict(b.norm_attention.state_dict())
    layer.norm2.load_state_dict(b.norm_mlp.state_dict())
    layer.linear1.load_state_dict(b.mlp[0].state_dict())
    layer.linear2.load_state_dict(b.mlp[2].state_dict())
    x = torch.randn(5, 1, 16, dtype=torch.float64)
    torch.testing.assert_close(b(x), layer(x))


@pytest.mark.parametrize("memory", [1, 3, 100])
def test_steps_with_the_cache_are_the_masked_forward(memory):
    b = block(24, 4)
    x = torch.randn(2, 13, 24, generator=torch.Generator().manual_seed(2))
    whole = b(x, causal_mask(13, memory, CPU))
    cache = KeyValueCache(memory)
    steps = torch.cat([b.step(x[:, n : n + 1], n, cache) for n in range(13)], dim=1)
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=1e-5)


def test_rotation_keeps_length_and_depends_on_distance_only():
    turns = rotary_turns(40, 8, CPU)
    x = torch.randn(1, 1, 40, 8, dtype=torch.float64)
    torch.testing.assert_close(rotate(x, turns).norm(dim=-1), x.norm(dim=-1), atol=1e-6, rtol=1e-6)
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    turned_q, turned_k = (rotate(t.expand(1, 1, 40, 8), turns)[0, 0] for t in (q, k))
    product = turned_q @ turned_k.T
    for lag in (-7, 0, 1, 20):
        torch.testing.assert_close(
            product.diagonal(lag), product.diagonal(lag)[:1].expand(40 - abs(lag)), atol=1e-5, rtol=0
        )
    assert product.diagonal(0)[0] != pytest.approx(product.diagonal(5)[0].item(), abs=1e-3)


def test_first_position_may_be_anywhere():
    torch.testing.assert_close(rotary_turns(4, 8, CPU, first=9), rotary_turns(13, 8, CPU)[9:])


def test_attention_is_the_same_when_all_positions_shift():
    """A block that looks back 5 tokens, with 6 unseen tokens put in front, gives the same tokens further on."""
    b = block()
    x, front = torch.randn(2, 9, 16), torch.randn(2, 6, 16)
    alone = b(x, causal_mask(9, 5, CPU))
    later = b(torch.cat([front, x], 1), causal_mask(15, 5, CPU))[:, 6:]
    torch.testing.assert_close(later[:, 4:], alone[:, 4:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(later[:, 0], alone[:, 0], atol=1e-3)


def test_order_of_tokens_matters():
    b, x = block(), torch.randn(1, 6, 16)
    assert not torch.allclose(b(x.flip(1)).flip(1), b(x), atol=1e-3)


def test_causal_mask():
    assert causal_mask(5, 2, CPU).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert torch.equal(causal_mask(4, 9, CPU), torch.ones(4, 4, dtype=torch.bool).tril())


def test_a_mask_hides_the_rest():
    b = block()
    x = torch.randn(1, 8, 16, requires_grad=True)
    b(x, causal_mask(8, 3, CPU))[0, 4].sum().backward()
    assert torch.nonzero(x.grad[0].abs().sum(-1))[:, 0].tolist() == [2, 3, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(dtype, probability):
    torch.manual_seed(0)
    x = torch.ones(7, 29, 1001, dtype=dtype, requires_grad=True)
    made = dropout(x, probability, True)
    zeroed = (made == 0).float()
    # Five standard errors of the share, in all and by the place of a value among the four of one random number.
    for part in (zeroed, *(zeroed.view(-1)[place::4] for place in range(4))):
        assert part.mean().item() == pytest.approx(probability, abs=5 * (0.25 / part.numel()) ** 0.5)
    neighbours = torch.corrcoef(torch.stack([zeroed.view(-1)[:-1], zeroed.view(-1)[1:]]))[0, 1]
    assert abs(neighbours) < 0.012
    kept = made[made != 0].unique()
    assert kept.tolist() == [pytest.approx(1 / (1 - probability), rel=1e-6 if dtype == torch.float32 else 4e-3)]
    made.sum().backward()
    torch.testing.assert_close(x.grad, made.detach())


def test_dropout_of_0_and_outside_of_training_is_the_input_itself():
    x = torch.randn(5)
    assert torch.equal(dropout(x, 0.0, True), x)
    assert torch.equal(dropout(x, 0.9, False), x)


def test_dropout_is_for_training_only():
    b, x = block(dropout=0.5), torch.randn(2, 5, 16)
    assert torch.equal(b(x), b(x))
    b.train()
    assert not torch.equal(b(x), b(x))


@pytest.mark.parametrize(
    ("length", "patch", "tokens"), [(2190, 6, 365), (8760, 24, 365), (500, 6, 84), (10, 7, 2), (3, 7, 1)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_there_and_back(length, patch, tokens, channels):
    x = torch.randn(2, channels, length)
    cut = patchify(x, patch)
    assert num_tokens(length, patch) == tokens
    assert cut.shape == (2, tokens, channels * patch)
    assert torch.equal(unpatchify(cut, channels, length), x)
    # A token holds its points channel by channel, and the last one ends in zeros.
    assert torch.equal(cut[:, 0].unflatten(-1, (channels, patch))[..., : min(patch, length)], x[..., :patch])
    if length % patch:
        assert not cut[:, -1].unflatten(-1, (channels, patch))[..., length % patch :].any()


def test_padding_of_a_mask_is_false():
    cut = patchify(torch.ones(1, 1, 5, dtype=torch.bool), 3)
    assert cut.dtype == torch.bool
    assert cut[0].tolist() == [[True] * 3, [True, True, False]]


# ---- days ------------------------------------------------------------------------------------------------------------


def days_prior(points=3, mixtures=4, seed=0, week=7, **config) -> DaysPrior:
    """A prior whose law is far from its start: weights drawn at random."""
    torch.manual_seed(seed)
    sizes = {"width": 16, "depth": 2, "heads": 2, "memory": 5, "value_width": 8}
    prior = DaysPrior(DaysConfig(**{**sizes, "mixtures": mixtures, **config}), points, F_, H + Z, week).eval()
    with torch.no_grad():
        prior.values.head.weight.normal_(std=0.1)
        prior.values.base_log_scale.normal_(std=0.3)
        prior.values.skips.normal_(std=0.05)
    return prior


def day_inputs(batch=4, tokens=12, points=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, tokens, points, generator=g),
        torch.randn(batch, tokens, points, generator=g),
        torch.randn(batch, tokens, F_, generator=g),
        torch.randn(batch, H + Z, generator=g),
    )


@pytest.mark.parametrize(("points", "mixtures"), [(3, 4), (1, 2), (6, 1)])
def test_density_is_that_of_mixtures_of_gaussians_value_by_value(points, mixtures):
    prior = days_prior(points, mixtures).double()
    residual, *given = (t.double() for t in day_inputs(points=points))
    law = prior(residual, *given)
    log_weight, mean, log_scale = (t.double() for t in law)
    wanted = MixtureSameFamily(Categorical(logits=log_weight), Normal(mean, log_scale.exp())).log_prob(residual)
    torch.testing.assert_close(law.log_likelihood(residual).double(), wanted.sum(-1), atol=1e-4, rtol=1e-5)


def test_density_of_a_day_is_one_in_all():
    """Over a grid of whole days: the laws of the values of a day, one given the other, make one density."""
    prior = days_prior(points=2)
    at = torch.linspace(-9, 9, 181)
    grid = torch.stack(torch.meshgrid(at, at, indexing="ij"), dim=-1).flatten(0, 1)
    _, *given = day_inputs(batch=1, tokens=1, points=2)
    law = prior(grid[:, None], *(t.expand(len(grid), *t.shape[1:]) for t in given))
    total = law.log_likelihood(grid[:, None]).double().exp().sum() * (at[1] - at[0]).double() ** 2
    torch.testing.assert_close(total.item(), 1.0, atol=0.01, rtol=0)


def test_law_starts_as_a_mixture_of_wide_and_narrow():
    """Exactly so but for what the small weights of the last layer add."""
    prior = DaysPrior(DaysConfig(width=16, heads=2, mixtures=3), 2, F_, H + Z, 7).eval()
    assert prior.values.head.weight.abs().max() < 0.1
    nn.init.zeros_(prior.values.head.weight)
    law = prior(*day_inputs(points=2))
    torch.testing.assert_close(law.log_weight.exp(), torch.full_like(law.log_weight, 1 / 3))
    torch.testing.assert_close(law.log_scale, torch.tensor([-0.7, -0.2, 0.3]).expand_as(law.log_scale))


def test_no_law_is_sharper_or_broader_than_its_limits():
    """A repeated value, such as nothing at night, must not be won by the width of a needle."""
    prior = DaysPrior(DaysConfig(width=16, heads=2, mixtures=2), 2, F_, H + Z, 7).eval()
    with torch.no_grad():
        prior.values.base_log_scale.copy_(torch.tensor([-20.0, 20.0]))
    assert prior(*day_inputs(points=2)).log_scale.unique().tolist() == [SHARPEST, BROADEST]


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_value_says_something_of_those_after_it_in_its_day_only(changed):
    prior = days_prior()
    residual, *given = day_inputs()
    other = residual.clone()
    other[:, 6, changed] += 3
    for one, two in zip(prior(residual, *given), prior(other, *given), strict=True):
        assert torch.equal(one[:, :6], two[:, :6])
        same = (one[:, 6] == two[:, 6]).all(-1).all(0)
        assert same.tolist() == [p <= changed for p in range(3)]


@pytest.mark.parametrize("changed", [0, 4, 11])
def test_a_day_says_nothing_of_itself_or_the_past(changed):
    prior = days_prior()
    residual, *given = day_inputs()
    before = prior(residual, *given)
    other = residual.clone()
    other[:, changed] += 3
    after = prior(other, *given)
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one[:, :changed], two[:, :changed])
        assert torch.equal(one[:, changed, 0], two[:, changed, 0])
    if changed < 11:
        assert not torch.allclose(before.mean[:, changed + 1], after.mean[:, changed + 1])


def test_law_of_some_tokens_is_told_of_all_before_them():
    """Without attention, which begins with the first of them, it is that of the whole series."""
    prior, given = days_prior(), day_inputs(tokens=16)
    at = torch.tensor([0, 3, 6, 11])[:, None] + torch.arange(5)
    series = torch.arange(4)[:, None]
    changed = (given[0].clone(), *given[1:])
    changed[0][1, :3] += 1
    changed[0][2, 11:] += 1
    some, other = prior(*given, at_BN=at), prior(*changed, at_BN=at)
    for one, two in zip(some, other, strict=True):
        assert torch.equal(one[[0, 2, 3]], two[[0, 2, 3]])
        assert not torch.allclose(one[1], two[1])
    for one, whole in zip(prior(*given, at_BN=torch.arange(16).expand(4, -1)), prior(*given), strict=True):
        assert torch.equal(one, whole)
    for block in prior.blocks:
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
    for one, whole in zip(prior(*given, at_BN=at), prior(*given), strict=True):
        torch.testing.assert_close(one, whole[series, at])


def test_law_of_some_slots_is_that_of_the_whole_day():
    prior, given, slots = days_prior(), day_inputs(), torch.tensor([0, 2])
    for one, whole in zip(prior(*given, slots_S=slots), prior(*given), strict=True):
        torch.testing.assert_close(one, whole[:, :, slots])


def test_reach_is_memory_and_week_where_nothing_leaves_traces(monkeypatch):
    """A day acts on the next ``memory`` days of each block and again a week later, and no further."""
    prior = days_prior(depth=1, memory=2, week=7)
    residual, *given = day_inputs(tokens=16)
    other = residual.clone()
    other[:, 3] += 3

    def moved():
        gone = prior(residual, *given).mean - prior(other, *given).mean
        gone[:, 3, 1:] = 0  # values of the day itself are told of those before them in it
        return torch.nonzero(gone.abs().sum((0, 2, 3)) > 1e-6)[:, 0].tolist()

    assert moved() == list(range(4, 16))
    monkeypatch.setattr(history, "traces", lambda x, *_: [torch.zeros_like(x)] * 7)
    monkeypatch.setattr(history, "usual_values", lambda x, *_: [torch.zeros_like(x)] * 3)
    assert moved() == [4, 5, 10, 11]


def test_a_component_takes_its_share_of_what_is_regular():
    prior, (residual, regular, *given) = days_prior(), day_inputs()
    moved = torch.zeros_like(regular)
    moved[:, -1] = 2.0
    with torch.no_grad():
        # The networks are not told; what is left is the direct way, beside usual values too: these are given above it.
        usual = range(history.NUM_HISTORY - 3, history.NUM_HISTORY)
        for at in (history.REGULAR, *usual):
            prior.embed.weight[:, 3 * at : 3 * at + 3] = prior.values.from_features.weight[:, at : at + 1] = 0
        one, two = prior(residual, regular, *given), prior(residual, regular + moved, *given)
    share = prior.values.skips[history.REGULAR] - prior.values.skips[usual].sum(0)
    torch.testing.assert_close(two.mean[:, -1] - one.mean[:, -1], 2 * share.expand(4, 3, -1))
    torch.testing.assert_close(two.mean[:, :-1], one.mean[:, :-1])


def test_components_start_with_shares_of_what_is_regular_alone():
    skips = DaysPrior(DaysConfig(width=16, heads=2, mixtures=3), 2, F_, H + Z, 7).values.skips
    torch.testing.assert_close(skips[history.REGULAR], torch.tensor([0.1, -0.25, -0.6]))
    assert not skips[[f for f in range(history.NUM_HISTORY) if f != history.REGULAR]].any()


def test_same_seed_same_draw_and_no_other():
    prior, (_, *given) = days_prior(), day_inputs()
    draws = [prior.sample(*given, torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])
    torch.manual_seed(99)
    assert torch.equal(draws[0], prior.sample(*given, torch.Generator().manual_seed(5)))


def test_draws_follow_the_law():
    """Days drawn value by value, put through the law of `forward`, surer: uniform for every day and value (KS)."""
    prior, points = days_prior(points=3, mixtures=3), 3
    _, *given = day_inputs(batch=500, tokens=9, points=points)
    drawn = prior.sample(*given, torch.Generator().manual_seed(0))
    assert drawn.abs().max() < LARGEST
    log_weight, mean, log_scale = prior(drawn, *given)
    z = (drawn[..., None] - mean) * (-log_scale).exp()
    below = (torch.special.ndtr(z) * (SURENESS * log_weight).softmax(-1)).sum(-1)
    for i in range(points):
        assert stats.kstest(below[..., i].flatten().detach(), "uniform").pvalue > 1e-3, i
        for day in (0, 4, 8):
            assert stats.kstest(below[:, day, i].detach(), "uniform").pvalue > 1e-4, (i, day)


def test_a_single_gaussian_draw_has_standard_residuals():
    prior = days_prior(points=4, mixtures=1)
    _, *given = day_inputs(batch=300, tokens=10, points=4)
    drawn = prior.sample(*given, torch.Generator().manual_seed(2))
    law = prior(drawn, *given)
    z = ((drawn[..., None] - law.mean) * (-law.log_scale).exp())[..., 0].flatten(0, 1)
    assert z.mean(0).abs().max() < 0.08
    torch.testing.assert_close(torch.cov(z.T), torch.eye(4), atol=0.08, rtol=0)


def test_a_runaway_chain_is_held():
    prior, (_, *given) = days_prior(), day_inputs()
    nn.init.constant_(prior.values.slot, 50.0)
    assert prior.sample(*given, torch.Generator()).abs().max() == LARGEST
