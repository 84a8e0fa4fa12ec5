"""What the API takes as series, moments and entities, and what it refuses before any work."""

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest

from ttsgan.data.arrays import checked_entities, checked_starts, checked_values
from ttsgan.errors import DataError

SERIES = np.random.default_rng(0).gamma(1.0, 1.0, (3, 8)).astype(np.float32)
NEW_YEAR = np.datetime64("2021-01-01", "s")


def test_values_become_channels_and_the_given_ones_stay():
    given = SERIES.copy()
    made = checked_values(given, 0.5)
    assert made.shape == (3, 1, 8)
    assert made.dtype == np.float32
    made[:] = 0
    np.testing.assert_array_equal(given, SERIES)


@pytest.mark.parametrize("kind", ["masked", "nullable", "object"])
def test_what_is_masked_or_missing_is_missing(kind):
    """Not what stands under the mask: 9999 would be a reading."""
    bad = np.zeros(SERIES.shape, dtype=bool)
    bad[1, 2:4] = True
    hidden = np.where(bad, 9999, SERIES)
    given = np.ma.masked_array(hidden, mask=bad)
    if kind != "masked":
        given = pd.DataFrame(hidden).mask(bad)
        given = given.astype("Float64" if kind == "nullable" else object)
    np.testing.assert_array_equal(checked_values(given, 0.5)[:, 0], np.where(bad, np.nan, SERIES))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (SERIES + 1j, "complex numbers"),
        (np.where(np.arange(8) == 2, 1e39, SERIES.astype(float)), "series 0 holds an infinite value"),
        (np.where(np.arange(8) < 6, np.nan, SERIES), r"25% of its values; allowed: 50% or more \(data.min_observed\)"),
    ],
)
def test_values_that_are_refused(values, told):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=told):
            checked_values(values, 0.5)


AT_ONE = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    "starts",
    [
        np.full(2, NEW_YEAR),
        ["2021-01-01", "2021-01-01T00:00"],
        [datetime.datetime(2021, 1, 1)] * 2,
        [datetime.datetime(2021, 1, 1, 1, tzinfo=AT_ONE)] * 2,
        pd.Series(pd.to_datetime(["2021-01-01T01:00+01:00"] * 2)),
        pd.Series(pd.to_datetime(["2021-01-01"] * 2)),
    ],
)
def test_moments(starts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = checked_starts(starts, 2)
    np.testing.assert_array_equal(made, np.full(2, NEW_YEAR))
    assert made.dtype == "datetime64[s]"


@pytest.mark.parametrize("wrong", [[2020, 2021], [1.6e18] * 2, [1, "2021-01-01"], [True, False], [None, 5]])
def test_numbers_are_no_moments(wrong):
    """Of which unit? Nanoseconds taken for seconds lie in another age."""
    with pytest.raises(DataError, match=r"starts hold numbers .*; allowed: datetime64"):
        checked_starts(np.array(wrong, dtype=object if len({type(w) for w in wrong}) > 1 else None), 2)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, ""])
def test_every_series_has_an_entity(missing):
    with pytest.raises(DataError, match="entities is missing for series 1"):
        checked_entities(pd.Series(["a", missing, "b"], dtype=object), 3)


def test_entities_are_text():
    assert list(checked_entities([3, 1, 1], 3)) == ["3", "1", "1"]
    assert len(set(checked_entities(None, 3))) == 3
