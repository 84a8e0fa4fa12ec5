"""What training draws from: batches and noise by progress alone, and the set of scaled series."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ttsgan import recipes
from ttsgan.data.calendar import NUM_FEATURES
from ttsgan.models.patching import unpatchify
from ttsgan.training import dataset
from ttsgan.training.dataset import BLOCK_ROWS, StepRandom, batch_rows, build_train_set

CPU = torch.device("cpu")


def world(rank, size):
    return SimpleNamespace(rank=rank, world_size=size, device=CPU)


@pytest.mark.parametrize(("count", "batch"), [(40, 8), (13, 4), (3, 8), (1, 2)])
def test_batches_pass_over_everything_once_per_epoch(count, batch):
    rows = torch.arange(100, 100 + count)
    seen = torch.cat([batch_rows(rows, 0, "days", at, batch) for at in range(0, 10 * count, batch)])
    for epoch in range(len(seen) // count):
        one = seen[epoch * count : (epoch + 1) * count]
        assert torch.equal(one.sort().values, rows)
    if count > 8:
        assert not torch.equal(seen[:count], seen[count : 2 * count])


def test_batches_depend_on_seed_stage_and_place_only():
    rows = torch.arange(50)
    first = batch_rows(rows, 0, "days", 48, 8)
    assert torch.equal(first, batch_rows(rows, 0, "days", 48, 8))
    joined = torch.cat([batch_rows(rows, 0, "days", 48, 4), batch_rows(rows, 0, "days", 52, 4)])
    assert torch.equal(first, joined)
    for other in (batch_rows(rows, 1, "days", 48, 8), batch_rows(rows, 0, "encoder", 48, 8)):
        assert not torch.equal(first, other)


def test_two_workers_share_the_draws_of_one():
    one = StepRandom(0, "days", 16, 8, world(0, 1))
    parts = [StepRandom(0, "days", 16, 8, world(rank, 2)) for rank in range(2)]
    for _ in range(2):
        assert torch.equal(one.normal(3, 2), torch.cat([p.normal(3, 2) for p in parts]))
        assert torch.equal(one.integers(1000), torch.cat([p.integers(1000) for p in parts]))
    assert [p.rows for p in parts] == [slice(0, 4), slice(4, 8)]


@pytest.mark.parametrize("workers", [2, 3, 6])
def test_large_batches_are_drawn_by_those_who_have_them(workers):
    """A batch of several blocks: the same rows for any number of workers, none of which draws for all."""
    batch = 6 * BLOCK_ROWS // 2 + 12
    one = StepRandom(0, "days", 16, batch, world(0, 1))
    parts = [StepRandom(0, "days", 16, batch, world(rank, workers)) for rank in range(workers)]
    for _ in range(2):
        whole = one.normal(2)
        assert torch.equal(whole, torch.cat([p.normal(2) for p in parts]))
        assert torch.equal(one.uniform(), torch.cat([p.uniform() for p in parts]))
        assert all(torch.equal(one.some(50, 5), p.some(50, 5)) for p in parts[:1]), "what all share"
        [p.some(50, 5) for p in parts[1:]]
    assert len(whole.unique()) == whole.numel()
    assert max(sum(rows for _, rows in p.blocks) for p in parts) <= batch / workers + 2 * BLOCK_ROWS


def test_crops_are_whole_begin_anywhere_and_are_shared_by_workers():
    made = StepRandom(0, "days", 16, 400, world(0, 1)).crop(10, 4)
    assert made.shape == (400, 4)
    assert (made.diff(dim=1) == 1).all()
    assert made[:, 0].unique().tolist() == list(range(7))
    met = made.flatten().bincount() / 400
    assert met.min() > 0.2, "the ends are met half as often as the middle, not a quarter as often"
    assert met.max() < 0.6
    parts = [StepRandom(0, "days", 16, 400, world(rank, 2)).crop(10, 4) for rank in range(2)]
    assert torch.equal(made, torch.cat(parts))
    short = StepRandom(0, "days", 16, 8, world(0, 1)).crop(3, 4)
    assert torch.equal(short, torch.arange(3).expand(8, 3))


def test_some_numbers_are_others_in_each_step_and_the_same_for_all_workers():
    made = [StepRandom(0, "days", seen, 8, world(0, 1)).some(24, 12) for seen in range(0, 800, 8)]
    for one in made:
        assert one.tolist() == sorted(set(one.tolist()))
        assert len(one) == 12
    met = torch.cat(made).bincount(minlength=24)
    assert met.min() > 30, "of a hundred steps each is met in half of them"
    assert met.max() < 70
    assert torch.equal(StepRandom(0, "days", 16, 8, world(1, 2)).some(24, 12), made[2])
    assert StepRandom(0, "days", 16, 8, world(0, 1)).some(6, 12) is None


def test_randomness_of_a_step_comes_from_its_name():
    def draw(*name):
        made = StepRandom(*name, 8, world(0, 1))
        return made.normal(2), torch.rand(3)  # the second is where dropout draws from

    for a, b in zip(draw(0, "days", 8), draw(0, "days", 8), strict=True):
        assert torch.equal(a, b)
    for other in ((1, "days", 8), (0, "encoder", 8), (0, "days", 16)):
        assert not torch.equal(draw(0, "days", 8)[0], draw(*other)[0])
    torch.manual_seed(0)
    StepRandom(0, "days", 8, 8, world(0, 2))
    first = torch.rand(3)
    StepRandom(0, "days", 8, 8, world(1, 2))
    assert not torch.equal(first, torch.rand(3))


# ---- the training set ------------------------------------------------------------------------------------------------


def test_training_set_is_the_scaled_series(small):
    data, sample = small.data, small.sample
    scaled = small.scaler.transform(sample.values, sample.starts, seed=0)
    for name in ("scores", "residual", "regular", "observed"):
        held = unpatchify(getattr(data, name), data.shape.channels, data.shape.length).numpy()
        np.testing.assert_array_equal(held, getattr(scaled, name))
    np.testing.assert_array_equal(data.numbers.numpy(), scaled.numbers)
    np.testing.assert_allclose(data.level, np.nanmean(np.abs(sample.values), axis=(1, 2)), rtol=1e-4)
    assert data.shape.num_tokens == 42
    assert data.shape.week == 7
    assert len(data) == 48


def test_dropout_does_not_draw_what_a_step_draws():
    for rank in range(2):
        made = StepRandom(0, "days", 16, 8, world(rank, 2))
        own = torch.rand(8)
        assert not torch.equal(own, torch.rand(8, generator=made.generator))


def test_padding_counts_as_missing(small):
    sample = small.sample
    config = recipes.override(small.config, ["patch.size=10"])
    data = build_train_set(sample.values, sample.starts, sample.entities, small.scaler, config)
    assert data.shape.num_tokens == 26
    assert not data.observed[:, -1, 2:].any()
    assert not data.scores[:, -1, 2:].any()


def test_validation_is_made_of_whole_entities(small):
    sample = small.sample
    twins = np.repeat(np.arange(24), 2).astype(str)

    def apart_of(share, seed):
        config = recipes.override(small.config, [f"training.validation_share={share}", f"seed={seed}"])
        return build_train_set(sample.values, sample.starts, twins, small.scaler, config)

    data = apart_of(0.25, 3)
    apart = data.validation.numpy()
    assert len(np.unique(twins[apart])) == 6
    assert not set(twins[apart]) & set(twins[~apart])
    other = apart_of(0.25, 4)
    assert not torch.equal(data.validation, other.validation)
    few = apart_of(0.001, 3)
    assert few.validation.sum() == 2


def test_scaling_in_portions_changes_nothing(small, monkeypatch):
    """A set scaled 512 series at a time is the set scaled whole; ties included."""
    monkeypatch.setattr(dataset, "SCALE_ROWS", 10)
    sample = small.sample
    data = build_train_set(sample.values, sample.starts, sample.entities, small.scaler, small.config)
    torch.testing.assert_close(data.scores, small.data.scores)


def test_calendar_of_several_starts(small):
    sample = small.sample
    starts = sample.starts + np.arange(48) % 2 * np.timedelta64(86_400, "s")
    data = build_train_set(sample.values, starts, sample.entities, small.scaler, small.config)
    assert data.calendar.shape == (2, 42, NUM_FEATURES)
    made = data.calendar_of(torch.tensor([0, 1]))
    assert torch.equal(made[0, 1:], made[1, :-1])
