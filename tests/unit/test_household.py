"""The law of household numbers given a condition, on data whose law is known."""

import numpy as np
import pytest
import torch
from scipy import stats

from ttsgan.config import HouseholdConfig
from ttsgan.errors import NotFittedError
from ttsgan.models import household
from ttsgan.models.household import HouseholdModel


def model(numbers, cond, mixtures=8, households=None, kinds=None) -> HouseholdModel:
    empty = HouseholdModel(HouseholdConfig(mixtures=mixtures), numbers.shape[1], cond.shape[1])
    owners = torch.arange(len(numbers)) % (households or len(numbers))
    return empty.fit(numbers, cond[None], owners, 0, kinds)


def draw(fitted, cond, seed=0):
    return fitted.sample(cond, torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(count=2000, seed=0):
    """Numbers = slope * condition + correlated rest; returns numbers, condition, slope, covariance of the rest."""
    cond = normal(count, 2, seed=seed)
    slope = torch.tensor([[0.8, 0.0, -0.5], [0.0, 0.6, 0.3]])
    factor = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.6, 0.0], [0.0, -0.2, 0.7]])
    return cond @ slope + normal(count, 3, seed=seed + 1) @ factor.T, cond, slope, factor @ factor.T


def test_not_fitted():
    with pytest.raises(NotFittedError, match="has not been fitted"):
        draw(HouseholdModel(HouseholdConfig(), 3, 2), torch.zeros(1, 2))


def test_marginals_are_those_of_training():
    """Skewed, heavy-tailed and two-humped numbers: drawn for the training conditions, each keeps its law."""
    cond = normal(800, 2)
    numbers = torch.stack(
        [
            torch.exp(normal(800, seed=1) + 0.5 * cond[:, 0]),
            torch.distributions.StudentT(3.0).sample((800,)),
            torch.where(normal(800, seed=2) > 0, 5.0, -5.0) + normal(800, seed=3),
        ],
        dim=1,
    )
    drawn = draw(model(numbers, cond), cond.repeat(5, 1))
    assert drawn.shape == (4000, 3)
    assert drawn.dtype == torch.float32
    for h in range(3):
        assert stats.ks_2samp(numbers[:, h], drawn[:, h]).statistic < 0.05, h


def test_dependence_on_the_condition_is_recovered():
    numbers, cond, slope, rest = gaussian()
    fitted = model(numbers, cond, mixtures=1)
    for at in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.5]), torch.zeros(2)):
        drawn = draw(fitted, at.expand(4000, 2))
        # Shrinkage, and the noise given to conditions, take a tenth of a slope and leave a little more to chance.
        torch.testing.assert_close(drawn.mean(0), 0.9 * at @ slope, atol=0.05, rtol=0)
        torch.testing.assert_close(torch.cov(drawn.T), rest, atol=0.15, rtol=0)


def test_correlation_between_numbers():
    numbers, cond, *_ = gaussian(1000)
    drawn = draw(model(numbers, cond), cond.repeat(4, 1))
    torch.testing.assert_close(torch.corrcoef(drawn.T), torch.corrcoef(numbers.T), atol=0.05, rtol=0)


def test_rank_correlation_survives_curved_scales():
    numbers, cond, *_ = gaussian(1000)
    curved = torch.stack([numbers[:, 0].exp(), numbers[:, 1] ** 3, numbers[:, 2]], dim=1)
    drawn = draw(model(curved, cond), cond.repeat(4, 1))
    wanted, made = (stats.spearmanr(x.numpy()).statistic for x in (curved, drawn))
    np.testing.assert_allclose(made, wanted, atol=0.06)


@pytest.mark.parametrize(("count", "most", "used"), [(20, 8, 1), (319, 8, 1), (320, 8, 2), (1000, 8, 6), (1000, 5, 5)])
def test_few_households_get_few_gaussians(count, most, used):
    numbers, cond, *_ = gaussian(count)
    assert model(numbers, cond, most).components == used


def test_series_of_few_households_get_few_gaussians():
    """A thousand meters of thirty buildings are thirty households: more Gaussians would show the buildings."""
    numbers, cond, *_ = gaussian(1000)
    assert model(numbers, cond, households=30).components == 1
    assert model(numbers, cond, households=320).components == 2


@pytest.mark.parametrize(("count", "of_second", "used"), [(300, 15, 2), (300, 14, 1), (1000, 400, 5)])
def test_each_kind_has_gaussians_of_its_own(count, of_second, used):
    """Too few of a kind share those of the others: a Gaussian of their own would show them."""
    numbers, cond, *_ = gaussian(count)
    kinds = (torch.arange(count) < of_second).long()
    assert model(numbers, cond, kinds=kinds).components == used
    for most in (1, 2):
        assert model(numbers, cond, kinds=kinds, mixtures=most).components == min(used, most)


def test_what_only_one_kind_has_stays_with_it():
    """A twentieth feeds in, and only in these homes go the first two numbers together; without kinds all go along."""
    kinds = (torch.arange(600) % 20 == 0).long()
    numbers = normal(600, 2)
    numbers[kinds == 1, 1] = 3 * numbers[kinds == 1, 0]
    numbers = torch.cat([numbers, (kinds * normal(600, seed=2).exp())[:, None]], dim=1)
    cond = normal(600, 2, seed=1)
    drawn = draw(model(numbers, cond, kinds=kinds), cond)
    of_second = drawn[:, 2] > 0
    assert 27 <= of_second.sum() <= 33
    assert torch.corrcoef(drawn[of_second, :2].T)[0, 1] > 0.8
    assert torch.corrcoef(drawn[~of_second, :2].T)[0, 1].abs() < 0.2


def test_households_drawn_together_stand_for_the_population():
    """Each number's hundredths hold one draw each of a hundred, and the draws of many do not correlate by luck."""
    numbers = normal(2000, 3)
    fitted = model(numbers, torch.zeros(2000, 1), mixtures=1)
    drawn = draw(fitted, torch.zeros(100, 1))
    place = torch.searchsorted(numbers.sort(dim=0).values.T.contiguous(), drawn.T.contiguous()) / 2000
    share = torch.stack([torch.histc(row.float(), 10, 0, 1) for row in place])
    assert (share - 10).abs().max() <= 2
    wanted = 0.95 * torch.corrcoef(numbers.T) + 0.05 * torch.eye(3)
    torch.testing.assert_close(torch.corrcoef(drawn.T), wanted, atol=0.06, rtol=0)


def two_kinds(count=1500):
    """Two kinds of household of the same condition: numbers agree in sign in one kind and differ in the other."""
    size, kind = normal(count, seed=5).abs() + 1, (normal(count, seed=6) > 0).float() * 2 - 1
    numbers = torch.stack([size * kind, size + 0.3 * normal(count, seed=7)], dim=1)
    return numbers, normal(count, 1, seed=8)


def test_every_number_keeps_its_law():
    """However the Gaussians overlap, each number alone is distributed as among training households."""
    numbers, cond = two_kinds()
    drawn = draw(model(numbers, cond), cond.repeat(4, 1))
    for h in range(2):
        assert stats.ks_2samp(numbers[:, h].numpy(), drawn[:, h].numpy()).statistic < 0.03
        assert float(drawn[:, h].std()) == pytest.approx(float(numbers[:, h].std()), rel=0.03)


def test_conditions_choose_each_gaussian_as_often_as_it_weighs():
    """Conditions in clumps are no Gaussian, and by Bayes alone the kind with the narrow one is chosen too often.

    A third of all households are of the second kind, whose conditions are all near (1, 1); of the first kind three in
    ten are there too, and the others at the corners of a square around it.
    """
    count = 1200
    order = torch.arange(count)
    kind = (order % 3 == 0).float()
    corner = 2.0 * torch.stack([order // 3 % 2, order // 6 % 2], dim=1)
    inside = (kind == 1) | (order % 10 < 3)
    cond = torch.where(inside[:, None], torch.ones(2), corner) + 0.05 * normal(count, 2, seed=4)
    numbers = 8 * kind[:, None] + normal(count, 6, seed=5)
    fitted = model(numbers, cond, mixtures=2)
    density = fitted._log_density_of(cond.double())
    chosen, by_bayes = ((weight + density).softmax(1).mean(0) for weight in (fitted.log_prior, fitted.log_weight))
    torch.testing.assert_close(chosen.sort().values, torch.tensor([1 / 3, 2 / 3]).double(), atol=2e-3, rtol=0)
    assert by_bayes.min() > 0.4


def test_several_kinds_of_household_get_several_gaussians():
    numbers, cond = two_kinds()
    fitted, single = model(numbers, cond), model(numbers, cond, mixtures=1)
    assert fitted.components > 1
    assert single.components == 1

    def dependence(drawn):
        return torch.corrcoef(torch.stack([drawn[:, 0].abs(), drawn[:, 1]]))[0, 1]

    wanted = dependence(numbers)
    assert wanted > 0.8
    assert dependence(draw(fitted, cond)) > 0.6
    assert dependence(draw(single, cond)) < 0.4


def test_more_groupings_weigh_no_more_than_one():
    numbers, cond, *_ = gaussian(300)
    once = model(numbers, cond, mixtures=1)
    thrice = HouseholdModel(HouseholdConfig(mixtures=1), 3, 2).fit(
        numbers, cond.repeat(3, 1, 1), torch.arange(len(numbers)), 0
    )
    torch.testing.assert_close(once.covariance, thrice.covariance)


def test_a_condition_that_says_nothing_leaves_the_law():
    numbers, *_ = gaussian(1000)
    cond = torch.zeros(1000, 2)
    drawn = draw(model(numbers, cond), torch.zeros(3000, 2))
    for h in range(3):
        assert stats.ks_2samp(numbers[:, h], drawn[:, h]).statistic < 0.05


def test_beyond_the_extremes():
    """Numbers beyond the largest of training appear, on a line, not at the largest itself and not far away."""
    numbers, cond, *_ = gaussian(60)
    drawn = draw(model(numbers, cond), cond.repeat(500, 1))
    for h in range(3):
        ordered = numbers[:, h].sort().values
        span = (ordered[-1] - ordered[0]).item()
        above, below = drawn[:, h] > ordered[-1], drawn[:, h] < ordered[0]
        for beyond in (above, below):
            assert 0 < beyond.float().mean() < 0.03
            assert len(drawn[beyond, h].unique()) == beyond.sum()
        assert drawn[:, h].max() < ordered[-1] + 0.6 * span
        assert drawn[:, h].min() > ordered[0] - 0.6 * span
        # No training extreme is repeated: that would copy the household that has it.
        assert not torch.isin(drawn[:, h], ordered[[0, -1]]).any()


def test_a_far_condition_extrapolates_with_bounds():
    numbers, cond, *_ = gaussian(200)
    drawn = draw(model(numbers, cond), torch.full((200, 2), 30.0))
    assert torch.isfinite(drawn).all()
    assert drawn[:, 0].mean() > numbers[:, 0].max()
    assert drawn[:, 0].max() < numbers[:, 0].max() + 30 * 3 * (numbers[:, 0].max() - numbers[:, 0].min())


def test_tied_numbers_are_not_noise():
    """Most households have the same zero share; the others follow the condition. Ties keep one score."""
    cond = normal(500, 1)
    numbers = torch.cat([torch.where(cond > 1, cond, torch.zeros_like(cond)), normal(500, 1, seed=4)], dim=1)
    fitted = model(numbers, cond)
    low, high = (draw(fitted, torch.full((2000, 1), at))[:, 0] for at in (-1.0, 2.5))
    assert (low == 0).float().mean() > 0.9
    assert (high > 0.9).float().mean() > (low > 0.9).float().mean() + 0.3


@pytest.mark.parametrize("count", [12, 511, 513, 3000])
def test_any_number_of_households(count):
    numbers, cond, *_ = gaussian(count)
    drawn = draw(model(numbers, cond), cond)
    assert torch.isfinite(drawn).all()
    assert abs(drawn.median(0).values - numbers.median(0).values).max() < 1.0


def test_fewer_households_than_numbers():
    """Twenty households and thirty numbers: the shrunk covariance still has a factor."""
    numbers, cond = normal(20, 30), normal(20, 3, seed=1)
    drawn = draw(model(numbers, cond), cond.repeat(20, 1))
    assert torch.isfinite(drawn).all()
    assert (drawn.std(0) / numbers.std(0)).min() > 0.5


def test_constant_number():
    numbers, cond, *_ = gaussian(100)
    numbers[:, 1] = 7.0
    assert torch.equal(draw(model(numbers, cond), cond)[:, 1], torch.full((100,), 7.0))


def test_order_of_households_does_not_matter():
    numbers, cond, *_ = gaussian(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    one, other = model(numbers, cond, 1), model(numbers[order], cond[order], 1)
    torch.testing.assert_close(draw(one, cond[:50]), draw(other, cond[:50]))


def test_seeded():
    numbers, cond, *_ = gaussian(300)
    fitted = model(numbers, cond)
    assert torch.equal(draw(fitted, cond), draw(fitted, cond))
    assert not torch.equal(draw(fitted, cond), draw(fitted, cond, seed=1))


def test_households_drawn_together_follow_their_own_conditions():
    """Even draws fill the law that is expected of just these conditions, not that of all training households."""
    numbers, cond, slope, _ = gaussian()
    fitted = model(numbers, cond, mixtures=1)
    some = torch.tensor([[1.5, 0.0], [-0.5, 1.0]]).repeat_interleave(200, dim=0)
    drawn = draw(fitted, some)
    for rows in (slice(0, 200), slice(200, 400)):
        torch.testing.assert_close(drawn[rows].mean(0), 0.9 * some[rows][0] @ slope, atol=0.15, rtol=0)


def test_one_household_alone_is_a_draw_like_any_other():
    """Drawn one by one, households have the same law and dependence; nothing of theirs is spread evenly then."""
    numbers, cond, *_ = gaussian(600)
    fitted = model(numbers, cond)
    drawn = torch.cat([draw(fitted, cond[i : i + 1], seed=i) for i in range(600)])
    torch.testing.assert_close(torch.corrcoef(drawn.T), torch.corrcoef(numbers.T), atol=0.12, rtol=0)
    for h in range(3):
        assert stats.ks_2samp(numbers[:, h], drawn[:, h]).pvalue > 0.01


def test_even_scores_by_hand():
    """Four draws of one standard normal law: each takes the quarter of its rank, and keeps its place in a quarter."""
    rank_in_law = torch.tensor([0.1, 0.2, 0.3, 0.9], dtype=torch.float64)
    scores = torch.special.ndtri(rank_in_law)[:, None]
    even = household._evenly(scores, torch.zeros_like(scores), torch.ones_like(scores))
    # 0.1 and 0.2 lie at .4 and .8 of the first quarter, 0.3 at .2 of the second, 0.9 at .6 of the last.
    wanted = torch.tensor([0.1, 0.25 + 0.2, 0.5 + 0.05, 0.75 + 0.15], dtype=torch.float64)
    torch.testing.assert_close(torch.special.ndtr(even[:, 0]), wanted, atol=1e-3, rtol=0)


def test_fit_is_kept_in_the_state():
    numbers, cond, *_ = gaussian(100)
    one = model(numbers, cond)
    other = HouseholdModel(HouseholdConfig(mixtures=8), 3, 2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(draw(one, cond), draw(other, cond))


def test_dependence_of_many_is_fitted_on_a_part(monkeypatch):
    """Of 4,000 households 500: the dependence is that of the whole within chance, each number keeps its whole law."""
    monkeypatch.setattr(household, "MAX_FITTED", 500)
    numbers, cond, *_ = gaussian(4000)
    fitted = model(numbers, cond, mixtures=1)
    monkeypatch.undo()
    whole = model(numbers, cond, mixtures=1)
    assert torch.equal(fitted.quantiles, whole.quantiles)
    assert not torch.equal(fitted.covariance, whole.covariance)
    assert (fitted.covariance - whole.covariance).abs().max() < 0.15
