"""What the temporal prior is told of the days before one: by hand, against sorting, and token by token."""

import pytest
import torch

from ttsgan.models.history import HALF_LIVES, NUM_HISTORY, REGULAR, Memory, history_of, traces, usual_values


def days(tokens=20, points=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, tokens, points, generator=generator) for _ in range(2)]


def every(x):
    """Places of all tokens."""
    return torch.arange(x.shape[1])[None]


def test_traces_by_hand():
    """One day of 1 (size 1 - .7) and nothing but zeros (size -.7) after it, in weeks of two tokens."""
    x = torch.zeros(1, 5, 1)
    x[0, 0] = 1
    same, *others = (trace[0, :, 0] for trace in traces(x, 2, every(x)))
    torch.testing.assert_close(same, torch.tensor([0, 0, 0.2, 0, 0.16]))
    assert len(others) == 2 * len(HALF_LIVES)
    for weeks, mean, size in zip(HALF_LIVES, others[::2], others[1::2], strict=True):
        rate = 1 - 0.5 ** (1 / (2 * weeks))
        torch.testing.assert_close(mean, torch.tensor([0.0] + [rate * (1 - rate) ** k for k in range(4)]))
        wanted = [0.0]
        for one in (0.3, -0.7, -0.7, -0.7):
            wanted.append((1 - rate) * wanted[-1] + rate * one)
        torch.testing.assert_close(size, torch.tensor(wanted))


def test_usual_values_are_those_of_their_rank_in_the_weeks_before():
    """Against sorting by hand: of 8 values in weeks of two tokens, ranks .15, .5 and .85 of 7, rounded."""
    x, _ = days(12)
    usual = usual_values(x, torch.zeros_like(x), 2, every(x))
    assert all(not u[:, 0].any() for u in usual)
    for n, count in ((1, 1), (4, 4), (8, 8), (11, 8)):
        rising = x[:, n - count : n].sort(dim=1).values
        for u, share in zip(usual, (0.15, 0.5, 0.85), strict=True):
            assert torch.equal(u[:, n], rising[:, round(share * (count - 1))])


@pytest.mark.parametrize("count", [1, 6, 7, 55, 56, 57, 130])
def test_traces_by_blocks_are_those_of_every_token_before(count):
    """Against weights of all tokens in double precision, at lengths around those of a week and of a block."""
    x, _ = days(count)
    same, *others = traces(x, 7, every(x))
    lag = torch.arange(count)[:, None] - torch.arange(count)

    def mean(of, rate, lags, far):
        weights = torch.where(lags, rate * (1 - rate) ** far.double(), 0.0)
        return torch.einsum("nm,bmp->bnp", weights, of.double()).float()

    torch.testing.assert_close(same, mean(x, 0.2, (lag > 0) & (lag % 7 == 0), lag / 7 - 1))
    for weeks, level, size in zip(HALF_LIVES, others[::2], others[1::2], strict=True):
        rate = 1 - 0.5 ** (1 / (7 * weeks))
        torch.testing.assert_close(level, mean(x, rate, lag > 0, lag - 1))
        torch.testing.assert_close(size, mean(x.abs() - 0.7, rate, lag > 0, lag - 1))


def test_tokens_in_a_row_are_told_what_all_are():
    residual, regular = days(70)
    at = torch.tensor([0, 3, 41, 60])[:, None] + torch.arange(10)
    row, whole = history_of(residual, regular, 7, at), history_of(residual, regular, 7)[:, torch.arange(4)[:, None], at]
    # Traces add up in another order.
    torch.testing.assert_close(row, whole)
    for exact in (slice(REGULAR + 1), slice(-3, None)):
        assert torch.equal(row[exact], whole[exact])


def test_days_before_what_is_regular_and_usual_values_above_it():
    residual, regular = days()
    history = history_of(residual, regular, week=7)
    assert history.shape == (NUM_HISTORY, 4, 20, 3)
    assert torch.equal(history[REGULAR], regular)
    assert not history[:3, :, 0].any()
    assert torch.equal(history[0, :, 1:], residual[:, :-1])
    assert torch.equal(history[1, :, 1:], (residual + regular)[:, :-1])
    assert torch.equal(history[2, :, 7:], residual[:, :-7])
    assert not history[2, :, :7].any()
    for above, usual in zip(history[-3:], usual_values(residual, regular, 7, every(residual)), strict=True):
        assert torch.equal(above, usual - regular)


@pytest.mark.parametrize("week", [1, 2, 7])
def test_memory_says_the_same_token_by_token(week):
    """Longer than the window of usual values, whose sorted values are then kept up without sorting; equal ones too."""
    residual, regular = days(40)
    residual[:, 5:9] = residual[:, 3:4]
    regular[:, 3:9] = 0
    memory, at_once = Memory(residual[:, 0] * 0, week), history_of(residual, regular, week)
    for n in range(40):
        torch.testing.assert_close(memory.history(regular[:, n]), at_once[:, :, n])
        memory.leave(residual[:, n], regular[:, n])


def test_nothing_is_told_of_a_day_itself_or_those_after_it():
    residual, regular = days()
    other = residual.clone()
    other[:, 9:] += 3
    one, two = history_of(residual, regular, 7), history_of(other, regular, 7)
    assert torch.equal(one[:, :, :10], two[:, :, :10])
    assert not torch.allclose(one[:, :, 10], two[:, :, 10])
