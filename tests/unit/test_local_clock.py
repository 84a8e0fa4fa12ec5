"""Stamps in local clock time: the hour that occurs twice in autumn is averaged, that of spring is missing."""

from zoneinfo import ZoneInfo

import numpy as np
import pytest

from ttsgan.data.grid import of_clock
from ttsgan.data.readers import read_series
from ttsgan.data.storage import Location
from ttsgan.errors import DataError

NAMES = ("a", "b")


def seconds_of(*texts):
    return np.array(texts, dtype="datetime64[s]").astype(np.int64)


def clock(zone, first, hours, step_minutes):
    """Return the local stamps (n,) of ``hours`` hours from ``first`` in UTC, by Python's own calendar."""
    utc = np.datetime64(first, "m") + np.arange(hours * 60 // step_minutes) * np.timedelta64(step_minutes, "m")
    local = [at.astype("datetime64[s]").item().replace(tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo(zone)) for at in utc]
    return np.array([at.strftime("%Y-%m-%d %H:%M") for at in local])


def written(path, wide, stamps, values):
    if wide:
        rows = ["time,a,b", *(f"{at},{x:.3f},{y:.3f}" for at, x, y in zip(stamps, *values, strict=True))]
    else:
        rows = ["id,time,kwh"]
        for name, series in zip(NAMES, values, strict=True):
            rows += [f"{name},{at},{x:.3f}" for at, x in zip(stamps, series, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return Location.parse(str(path))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("zone", "spring", "autumn", "step"),
    [
        ("Europe/London", "2013-03-30", "2013-10-26", 60),
        ("Europe/Berlin", "2013-03-30", "2013-10-26", 30),
        ("America/New_York", "2013-03-09", "2013-11-02", 15),
        ("Australia/Sydney", "2013-10-05", "2013-04-06", 60),
    ],
)
def test_the_hour_that_occurs_twice_and_the_one_that_is_left_out(tmp_path, caplog, wide, zone, spring, autumn, step):
    rng = np.random.default_rng(0)
    for at, missing in ((spring, 60 // step), (autumn, 0)):
        stamps = clock(zone, at, 72, step)
        values = np.round(rng.gamma(1.0, 1.0, (2, len(stamps))), 3)
        made = read_series(written(tmp_path / "a.csv", wide, stamps, values))
        steps = len(np.unique(stamps)) + missing
        assert (made.length, np.isnan(made.values).sum()) == (steps, 2 * missing)
        for series, of_one in zip(made.values[:, 0], values, strict=True):
            seen = series[~np.isnan(series)]
            expected = [of_one[stamps == stamp].mean() for stamp in np.unique(stamps)]
            np.testing.assert_allclose(seen, expected, rtol=1e-5)
        assert ("an hour that local clocks repeat" in caplog.text) == (at == autumn)


@pytest.mark.parametrize("wide", [False, True])
def test_a_gap_in_the_hour_that_occurs_twice(tmp_path, wide):
    stamps = clock("Europe/London", "2013-10-26", 48, 60)
    values = np.arange(96.0).reshape(2, 48) + 1
    first, second = np.flatnonzero(stamps == "2013-10-27 01:00")
    text = written(tmp_path / "a.csv", wide, stamps, values)
    path = tmp_path / "a.csv"
    path.write_text(path.read_text().replace(f"{values[0, second]:.3f}", ""))
    assert read_series(text).values[0, 0, first] == values[0, first]


@pytest.mark.parametrize("wide", [False, True])
def test_three_values_of_one_stamp_are_no_repeated_hour(tmp_path, wide):
    stamps = np.append(clock("Europe/London", "2013-10-26", 48, 60), "2013-10-27 01:00")
    values = np.arange(98.0).reshape(2, 49)
    with pytest.raises(DataError, match="duplicate time stamp 2013-10-27T01:00:00"):
        read_series(written(tmp_path / "a.csv", wide, stamps, values))


@pytest.mark.parametrize(
    ("stamps", "is_clock"),
    [
        (["2013-10-27 01:00", "2013-10-27 01:30"], True),
        (["2013-10-27 02:00", "2014-10-26 02:00", "2014-10-26 02:00"], True),
        (["2013-04-07 02:45"], True),
        (["2013-10-28 01:00"], False),  # a Monday
        (["2013-10-27 01:00", "2013-10-27 02:00"], False),  # more than an hour
        (["2013-10-27 12:00"], False),  # noon
        (["2013-07-07 01:00"], False),  # summer
        (["2013-10-20 01:00", "2013-10-27 01:00"], False),  # twice a year
    ],
)
def test_which_stamps_a_local_clock_repeats(stamps, is_clock):
    assert of_clock(seconds_of(*stamps)) == is_clock
