"""What happens between the stages: latents, conditions, the pool of draws, the share of the correction."""

from itertools import combinations

import numpy as np
import pytest
import torch
from small_pool import small_pool
from torch import nn

from ttsgan import losses
from ttsgan.training import transitions
from ttsgan.training.runtime import LocalRuntime


def test_latents_do_not_depend_on_portions_or_workers(trainer, small):
    made = trainer()
    whole = transitions.encode_all(made.state.average, small.data, made.runtime)
    assert whole.shape == (48, 4)
    torch.testing.assert_close(transitions.encode_all(made.state.average, small.data, made.runtime, chunk=7), whole)

    class Part(LocalRuntime):
        def __init__(self, rank, size):
            super().__init__()
            self.rank, self.world_size = rank, size

    parts = [transitions.encode_all(made.state.average, small.data, Part(r, 5)) for r in range(5)]
    torch.testing.assert_close(torch.cat(parts)[:48], whole)


def test_conditions_are_means_of_group_members(trainer, small, folder):
    made = trainer()
    made.state.load(folder)
    cond = made.state.drawn["cond"]
    assert cond.shape == (transitions.GROUPINGS, 48, 4)
    latents = made.state.networks.standard_latents(transitions.encode_all(made.state.average, small.data, made.runtime))
    torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    for grouping in cond:
        groups, inverse, counts = grouping.unique(dim=0, return_inverse=True, return_counts=True)
        assert counts.min() >= 10
        for index, group in enumerate(groups):
            torch.testing.assert_close(latents[inverse == index].mean(0), group, atol=1e-4, rtol=0)
    assert made.state.networks.household.components >= 1


def test_conditions_of_many_entities_are_formed_part_by_part(trainer, small, monkeypatch):
    """Two parts of 24 entities, dealt anew for each grouping; conditions are means of entities of one part."""
    monkeypatch.setattr(transitions, "GROUPED", 24)
    made = trainer()
    transitions.make_conditions(made.state, small.data, made.runtime)
    latents = made.state.networks.standard_latents(transitions.encode_all(made.state.average, small.data, made.runtime))
    dealt = set()
    for grouping in made.state.drawn["cond"]:
        groups, inverse, counts = grouping.unique(dim=0, return_inverse=True, return_counts=True)
        assert any(counts[list(some)].sum() == 24 for n in (1, 2) for some in combinations(range(len(counts)), n))
        for index, group in enumerate(groups):
            torch.testing.assert_close(latents[inverse == index].mean(0), group, atol=1e-4, rtol=0)
        dealt.add(tuple((inverse == inverse[0]).tolist()))
    assert len(dealt) == transitions.GROUPINGS


def test_no_part_has_too_few_entities_for_two_groups(trainer, small, monkeypatch):
    """48 entities are one part, not two of 24 of which none could be grouped."""
    monkeypatch.setattr(transitions, "GROUPED", 24)
    made = trainer("cluster.min_group_size=20")
    transitions.make_conditions(made.state, small.data, made.runtime)
    _, counts = made.state.drawn["cond"][0].unique(dim=0, return_counts=True)
    assert counts.min() >= 20


def test_workers_share_the_groupings(trainer, small, monkeypatch):
    """Each does its own ones; together they hold what one worker alone finds."""
    monkeypatch.setattr(transitions, "GROUPED", 24)
    made = trainer()
    latents = transitions.encode_all(made.state.average, small.data, made.runtime)
    whole = transitions._conditions(made.state, small.data, latents, made.runtime)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(made.runtime, "rank", rank, raising=False)
        monkeypatch.setattr(made.runtime, "world_size", 3, raising=False)
        shares.append(transitions._conditions(made.state, small.data, latents, made.runtime) / 3)
    assert sum((share != 0).any(-1).int() for share in shares).eq(1).all()
    torch.testing.assert_close(sum(shares), whole)


@pytest.fixture(scope="module", autouse=True)
def pool():
    """Draw one chunk of each grouping."""
    with small_pool(transitions.GROUPINGS):
        yield


@pytest.mark.parametrize("world", [2, 3, 8])
def test_pool_is_the_same_for_any_number_of_workers(adversarial, small, monkeypatch, world):
    made = adversarial()
    whole = {k: v for k, v in made.state.drawn.items() if k.startswith("pool_")}
    shares = []
    for rank in range(world):
        made.runtime.rank, made.runtime.world_size, parts = rank, world, []
        monkeypatch.setattr(made.runtime, "gather", lambda tensor, parts=parts: parts.append(tensor) or tensor)
        transitions.draw_pool(made.state, small.data, small.scaler, made.runtime)
        shares.append(parts)
    gathered = iter([torch.cat(of_all) for of_all in zip(*shares, strict=True)])
    monkeypatch.setattr(made.runtime, "gather", lambda _: next(gathered))
    transitions.draw_pool(made.state, small.data, small.scaler, made.runtime)
    for name, tensor in whole.items():
        torch.testing.assert_close(made.state.drawn[name], tensor)


def test_pool_follows_the_real_spread(adversarial, small):
    """Prior draws are scores: about as wide as real ones, different from each other."""
    base = adversarial().state.drawn["pool_base"]
    assert 0.6 < base.std() / small.data.scores.std() < 1.6
    assert 0.5 < losses.diversity(base, small.data.scores) < 2


@pytest.mark.parametrize(
    ("scores", "kept"), [((1.0, 0.96, 0.97), 0.0), ((1.0, 0.96, 0.94), 1.0), ((1.0, 0.9, 1.2), 0.5)]
)
def test_a_correction_is_kept_only_where_it_earns_its_place(adversarial, small, scores, kept):
    made, left = adversarial(), list(scores)
    figures = transitions.choose_correction(
        made.state, small.data, small.scaler, made.runtime, lambda values, starts: left.pop(0)
    )
    assert figures["correction"] == kept


def test_white_noise_has_no_base_and_trains_to_the_end(trainer):
    made = trainer("generator.noise=white", score=lambda values, starts: 1.0)
    done = made.train()
    assert "pool_base" not in done.drawn
    assert done.done
    assert done.total_series == 112
    assert float(done.average.correction) == 1
    assert made.telemetry.pictures


@pytest.mark.parametrize("best", [0.0, 0.5, 1.0])
def test_the_best_share_of_the_correction_is_kept(adversarial, small, best):
    made = adversarial()
    nn.init.constant_(made.state.average.generator.gain, 1.0)
    seen = []

    def score(values, starts):
        assert values.shape == (256, 1, 252)
        assert len(starts) == 256
        assert (values >= 0).all()
        seen.append(values)
        return abs(transitions.CORRECTIONS[len(seen) - 1] - best)

    figures = transitions.choose_correction(made.state, small.data, small.scaler, made.runtime, score)
    assert figures["correction"] == best
    assert float(made.state.average.correction) == float(made.state.networks.correction) == best
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[1], seen[2])
    without = transitions.choose_correction(made.state, small.data, small.scaler, made.runtime, None)
    assert without == {"correction": 1.0}
