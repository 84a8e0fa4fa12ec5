"""The scaler: there and back, and what must hold on the way."""

import dataclasses
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
from scaled import STEP, check_there_and_back, correlation, decode_scores, fitted, population

from ttsgan.config import HouseholdConfig
from ttsgan.data import marginals
from ttsgan.data.scaling import SeriesScaler
from ttsgan.errors import DataError, NotFittedError


@pytest.mark.parametrize(
    ("length", "step"),
    [(504, 14_400), (500, 14_400), (168, 25_200), (672, 900), (1000, 3600), (60, 86_400)],
    ids=["4h", "no whole day", "7h", "15min", "hours", "days"],
)
def test_round_trip(length, step):
    values, starts = population(length=length, step=step)
    _, scaled, back = check_there_and_back(values, starts, step)
    size, wanted = np.abs(back).mean(2), np.abs(values).mean(2)
    np.testing.assert_allclose(size, wanted, rtol=1e-4)
    np.testing.assert_allclose(
        np.sort(back, axis=2)[..., -3:].mean(2), np.sort(values, axis=2)[..., -3:].mean(2), rtol=0.25
    )
    assert (back >= 0).all()
    # A residual has unit size and no daily habit left.
    assert 0.8 < scaled.residual.std() < 1.2


def test_channels_do_not_mix():
    """Load beside temperature: each channel comes back like alone, in its own size and sign."""
    load, starts = population(seed=1)
    warm, _ = population("temperature", seed=2)
    values = np.concatenate([load, warm], axis=1)
    scaler, scaled, back = check_there_and_back(values, starts)
    assert scaler.state["signs"].tolist() == [marginals.ABOVE, marginals.WHOLE]
    np.testing.assert_allclose(np.abs(back).mean(2), np.abs(values).mean(2), rtol=1e-4)
    assert (back[:, 0] >= 0).all()
    alone = fitted(load, starts).transform(load, starts)
    np.testing.assert_array_equal(scaled.scores[:, :1], alone.scores)


@pytest.mark.parametrize("missing", [0.02, 0.4])
def test_gaps_anywhere(missing):
    values, starts = population()
    rng = np.random.default_rng(1)
    gaps = rng.random(values.shape) < missing
    gaps[0, 0, :30] = gaps[1, 0, -30:] = gaps[2, 0, 100:200] = True
    gaps[3, 0, ::6] = True  # one slot of the day is never there
    values[gaps] = np.nan
    # A gap stands in the middle of the order, so that many gaps blur the order on the way back.
    _, scaled, back = check_there_and_back(values, starts, worst=0.97 if missing < 0.1 else 0.93)
    np.testing.assert_allclose(back.mean(2), np.nanmean(values, axis=2), rtol=1e-4)
    # Bridged: the residual runs in a straight line over a gap, and is level at the ends.
    inside = scaled.residual[2, 0, 99:201]
    np.testing.assert_allclose(np.diff(inside, 2), 0, atol=1e-5)
    assert np.ptp(scaled.residual[0, 0, :30]) == 0


def test_what_is_missing_has_no_say():
    values, starts = population()
    scaler = fitted(values, starts)
    gappy = values.copy()
    gappy[:, :, 50:60] = np.nan
    one = scaler.transform(gappy, starts)
    # Shift the same gap's hidden values: they are gone, so nothing may change.
    hidden = np.where(np.isnan(gappy), 1e6, gappy).astype(np.float32)
    hidden[:, :, 50:60] = np.nan
    other = scaler.transform(hidden, starts)
    np.testing.assert_array_equal(one.numbers, other.numbers)


def test_inverse_reads_only_the_order_of_the_scores():
    values, starts = population()
    scaler = fitted(values, starts)
    scaled = scaler.transform(values, starts)
    np.testing.assert_array_equal(
        scaler.inverse(scaled.scores, scaled.numbers), scaler.inverse(np.exp(scaled.scores), scaled.numbers)
    )


def test_numbers_of_known_series():
    """Level and zero share against their definitions."""
    values, starts = population("zeros")
    scaler = fitted(values, starts)
    scaled, layout = scaler.transform(values, starts), scaler.layout
    in_use = np.log(values.mean(2) / (values > 0).mean(2))
    np.testing.assert_allclose(scaled.numbers[:, layout["level"]], in_use, rtol=1e-5)
    zeros = (values == 0).sum(2)
    share = (zeros + 0.5) / (values.shape[2] + 1)
    np.testing.assert_allclose(scaled.numbers[:, layout["zero_share"]], np.log(share / (1 - share)), rtol=1e-5)


def test_layout_covers_every_number_once():
    values, starts = population(channels=2)
    scaler = fitted(values, starts, quantile_components=3, habit_components=4)
    slices = list(scaler.layout.values())
    assert [s.start for s in slices] == [0, *[s.stop for s in slices[:-1]]]
    assert slices[-1].stop == scaler.num_numbers
    sizes = {name: s.stop - s.start for name, s in scaler.layout.items()}
    assert sizes["level"] == sizes["zero_share"] == sizes["loading"] == 2
    assert (sizes["quantile"], sizes["habit"]) == (3, 4)


def test_level_is_the_mean_over_channels():
    values, starts = population(channels=2)
    scaler = fitted(values, starts)
    made = scaler.level(scaler.transform(values, starts).numbers)
    np.testing.assert_allclose(made, values.mean(axis=(1, 2)), rtol=1e-5)


def test_state_comes_from_the_fitted_rows_alone():
    values, starts = population(count=60)
    scaler = fitted(values[:40], starts[:40])
    before = {name: array.copy() for name, array in scaler.state.items()}
    scaler.transform(values, starts)
    scaler.inverse(scaler.transform(values, starts).scores, scaler.transform(values, starts).numbers)
    again = fitted(values[:40], starts[:40])
    for name, array in before.items():
        np.testing.assert_array_equal(scaler.state[name], array)
        np.testing.assert_array_equal(again.state[name], array)
    # A series never seen comes back as well.
    unseen = scaler.transform(values[40:], starts[40:])
    back = scaler.inverse(unseen.scores, unseen.numbers)
    assert correlation(values[40:, 0], back[:, 0], unseen.observed[:, 0]).min() > 0.95


@pytest.mark.parametrize("kind", ["load", "zeros"])
def test_a_series_is_scaled_alike_in_any_company(kind):
    """What one household becomes cannot depend on which others are scaled beside it."""
    values, starts = population(kind)
    scaler = fitted(values, starts)
    together, alone = scaler.transform(values, starts), scaler.transform(values[5:6], starts[5:6])
    np.testing.assert_allclose(alone.numbers[0], together.numbers[5], atol=1e-5)
    np.testing.assert_allclose(alone.residual[0], together.residual[5], atol=1e-5)


def test_ties_are_broken_by_the_seed():
    values, starts = population("zeros")
    lowest = np.where(values > 0, values, np.inf).min(axis=2, keepdims=True)
    values = np.where(values > 0, values, 0.5 * lowest).astype(np.float32)
    scaler = fitted(values, starts)
    first, same, other = (scaler.transform(values, starts, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.scores, same.scores)
    assert not np.array_equal(first.scores, other.scores)
    tied = values < lowest
    np.testing.assert_array_equal(first.scores[~tied], other.scores[~tied])
    back = [scaler.inverse(s.scores, s.numbers) for s in (first, other)]
    np.testing.assert_allclose(back[0].mean(2), back[1].mean(2), rtol=1e-4)


def test_common_course_of_one_date():
    """What all share on the same dates is taken out, by each one's loading; on other dates it is nothing."""
    values, starts = population(count=60)
    rng = np.random.default_rng(8)
    weather = np.repeat(rng.normal(size=84), 6)
    part = np.linspace(0, 1, 60)[:, None, None]
    values = (values * np.exp(part * weather)).astype(np.float32)
    scaler = fitted(values, starts)
    scaled = scaler.transform(values, starts)
    loading = scaled.numbers[:, scaler.layout["loading"]][:, 0]
    assert np.corrcoef(loading, part[:, 0, 0])[0, 1] > 0.8
    rest = scaled.residual[:, 0] - scaled.residual[:, 0].mean(0)
    shared = scaled.residual[:, 0].mean(0).var() / rest.var()
    assert shared < 0.1
    later = starts + np.timedelta64(364 * 86_400, "s")
    course = decode_scores(scaler, np.zeros_like(scaled.residual), scaled.numbers, starts)
    elsewhere = decode_scores(scaler, np.zeros_like(scaled.residual), scaled.numbers, later)
    assert np.corrcoef((course - elsewhere)[-1, 0], weather)[0, 1] > 0.9


def test_starts_of_several_kinds():
    """Years that begin on other weekdays are fitted together; the order of rows does not matter."""
    values, starts = population(count=40)
    starts = starts + np.arange(40) % 3 * np.timedelta64(86_400, "s")
    scaler, scaled, _ = check_there_and_back(values, starts)
    order = np.random.default_rng(0).permutation(40)
    mixed = scaler.transform(values[order], starts[order])
    np.testing.assert_allclose(mixed.residual, scaled.residual[order], atol=1e-5)
    nano = scaler.transform(values, starts.astype("datetime64[ns]"))
    np.testing.assert_array_equal(nano.residual, scaled.residual)


def test_state_of_another_version_is_named():
    scaler = fitted(*population())
    del scaler.state["signs"]
    with pytest.raises(DataError, match=r"another version of ttsgan \(signs\); train again"):
        SeriesScaler.from_bytes(scaler.to_bytes(), scaler.config, STEP)


def test_state_survives_bytes():
    values, starts = population("zeros", channels=2)
    scaler = fitted(values, starts)
    again = SeriesScaler.from_bytes(scaler.to_bytes(), scaler.config, STEP)
    assert again.layout == scaler.layout
    assert all(array.flags.c_contiguous for array in scaler.state.values())
    one, other = scaler.transform(values, starts), again.transform(values, starts)
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    np.testing.assert_array_equal(scaler.inverse(one.scores, one.numbers), again.inverse(one.scores, one.numbers))
    assert scaler.to_bytes() == again.to_bytes()


@pytest.mark.parametrize("shape", [(4, 1, 503), (4, 2, 504)])
def test_other_shape_is_refused(shape):
    values, starts = population()
    scaler = fitted(values, starts)
    with pytest.raises(DataError, match=r"\(channels, points\); the scaler was fitted on \(1, 504\)"):
        scaler.transform(np.ones(shape, np.float32), starts[:4])


def test_not_fitted():
    values, starts = population(count=3)
    with pytest.raises(NotFittedError, match="has not been fitted"):
        SeriesScaler(HouseholdConfig(), STEP).transform(values, starts)


def test_too_few_series():
    values, starts = population(count=2)
    with pytest.raises(DataError, match="2 training series; at least 3"):
        fitted(values, starts)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, 0.0, 3.0])
def test_constant_series_is_refused(bad):
    values, starts = population()
    values[7] = bad
    with pytest.raises(DataError):
        fitted(values, starts)


def test_few_series_bound_the_components():
    values, starts = population(count=5)
    scaler = fitted(values, starts)
    assert len(scaler.state["habit_axes"]) <= 4
    assert np.isfinite(scaler.transform(values, starts).numbers).all()


def test_real_households(real_data):
    """London: correlation of each of 200 households, two of them 98 % zeros; level, zeros and peaks."""
    table = pq.read_table(real_data / "lcl_london_2013.parquet", columns=["values", "start"])
    hours = np.array(table["values"].to_pylist(), np.float32).reshape(200, 1, 2190, 4)
    values = hours.mean(3)
    starts = table["start"].to_numpy().astype("datetime64[s]")
    scaler = fitted(values, starts)
    scaled = scaler.transform(values, starts)
    back = scaler.inverse(scaled.scores, scaled.numbers)
    held = correlation(values[:, 0], back[:, 0], scaled.observed[:, 0])
    assert held.min() > 0.95
    assert (held > 0.97).mean() >= 0.99
    # Of the few readings of an almost empty home each is rounded to the meter's step.
    rounding = scaler.state["resolution"][0] * np.sqrt((values > 0).sum(2)) / values.shape[2]
    # A home with gaps gets a whole number of zeros: its mean is right to half of one.
    mean, seen = np.nanmean(values, axis=2), scaled.observed.sum(2)
    half = (seen < values.shape[2]) * (values == 0).any(2) * 0.5 / values.shape[2] * mean * seen / (values > 0).sum(2)
    assert (np.abs(back.mean(2) - mean) < 1e-4 * mean + rounding + half).all()
    zeros = (values == 0).sum(2) / seen
    np.testing.assert_allclose((back == 0).mean(2), zeros, atol=0.001)
    peak = back.max(2) / np.nanmax(values, axis=2)
    assert abs(np.median(peak) - 1) < 0.02
    assert np.abs(peak - 1).max() < 0.15


def test_minutes_need_no_matrix_of_all_their_slots():
    """The covariances of the habits of 1,440 slots would be 600 MB, and minutes of work."""
    values = np.random.default_rng(0).gamma(1.0, size=(12, 1, 2 * 1440)).astype(np.float32)
    starts = np.full(12, np.datetime64("2013-01-01", "s"))
    tracemalloc.start()
    scaler = SeriesScaler(HouseholdConfig(), 60).fit(values, starts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    axes = scaler.state["habit_axes"]
    assert axes.shape == (11, 6 * 1440)
    np.testing.assert_allclose(axes @ axes.T, np.eye(11), atol=1e-9)
