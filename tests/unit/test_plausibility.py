"""What series hold that they should not."""

import numpy as np
import pytest

from ttsgan.data.plausibility import (
    CODE_TIMES,
    alike,
    look_like_registers,
    odd_meter,
    odd_reading,
    refuse_codes,
    refuse_other_steps,
    refuse_sums,
)
from ttsgan.errors import DataError


def draw(shape=(12, 1, 500), seed=0):
    return np.random.default_rng(seed).gamma(1.0, 0.5, shape).astype(np.float32)


def test_a_meter_in_another_unit_is_doubted():
    values, ids = draw(), np.array([f"home {i}" for i in range(12)])
    values[0, 0] = np.nan
    values[1, 0] = 0
    assert odd_meter(values, ids) == ""
    values[4] *= 100
    assert odd_meter(values, ids) == "", "a school among homes"
    values[3] *= 1000
    values[7] *= 1000
    told = odd_meter(values, ids)
    assert "'home 3'" in told
    assert "(and 1 more series): are they in another unit?" in told


@pytest.mark.parametrize("channels", [1, 2])
def test_a_value_far_from_all_others_is_doubted(channels):
    values, ids = draw((12, channels, 500)), np.array([f"home {i}" for i in range(12)])
    values[0] = np.nan
    assert odd_reading(values, ids) == ""
    values[4, -1] *= 1000
    assert odd_reading(values, ids) == "", "large as a whole"
    values[5, -1, 7:10] = -1e4
    told = odd_reading(values, ids)
    assert told.startswith("'home 5' has the value -10000, and most series none above ")


CODES = [
    (-999.0, "below -499.5"), (-99.0, "below -49.5"), (9999.0, "above 4999.5"), (-150.0, "below -75"),
    (65535.0, "above 32767.5"), (9999999.0, "above 4999999.5"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "side"), CODES)
def test_codes_for_missing_values_are_refused(code, side):
    values = draw()
    values[2:4, 0, :6] = code
    with pytest.raises(
        DataError, match=f"the value {code:.10g} stands 12 times, in 2 of 12 series, and no other is {side}"
    ):
        refuse_codes(values, "a.csv")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (draw() * 100, "values of their own"),
        (np.where(draw() > 1, -999, draw() * -700).astype(np.float32), "others are nearly as low"),
        (np.append(draw().ravel(), [-999] * (CODE_TIMES - 1)).reshape(1, 1, -1), "seldom"),
        (np.append(draw().ravel(), [-9] * 50).reshape(1, 1, -1), "one digit says little"),
        (np.append(draw().ravel(), [-15] * 50).reshape(1, 1, -1), "not far enough"),
        (np.full((2, 1, 30), np.nan), "nothing"),
    ],
)
def test_values_that_are_no_codes_stay(values, why):
    refuse_codes(values, "a.csv")


def test_registers_that_were_replaced_are_registers_still():
    counters = np.cumsum(draw((30, 1, 8760)), axis=2)
    assert look_like_registers(counters)
    counters[:9, 0, 4000:] -= counters[:9, :, 4000]
    assert look_like_registers(counters)
    counters[:9, 0, 100::100] -= 50
    assert not look_like_registers(counters), "what falls every hundredth step is none"
    once = np.zeros((5, 1, 8760))
    once[:, 0, 4000:] = 1
    assert not look_like_registers(once), "nor what rises once"


def test_names_that_differ_by_case_alone():
    assert alike(np.array(["M5", "m6", "m5 ", "M5", "x"], dtype=object)) == ["M5", "m5 "]
    assert alike(np.array(["M5", "M5", "M6"])) == []


def test_values_every_other_step_for_a_time_are_of_a_longer_step():
    values = draw()
    ids = np.array([f"m{row}" for row in range(12)])
    values[3, 0, 100:180] = np.nan
    values[5, 0, np.random.default_rng(1).random(500) < 0.5] = np.nan
    refuse_other_steps(values, ids, 900, "a.csv")
    values[7, 0, 201:320:2] = np.nan
    said = "'m7' has a value every 1800 s, 60 times from its step 200 on, where the step is 900 s"
    with pytest.raises(DataError, match=said):
        refuse_other_steps(values, ids, 900, "a.csv")


@pytest.mark.parametrize(("share", "what"), [(1, "sum"), (12, "mean")])
def test_a_series_of_all_others_is_refused(share, what):
    values = draw()
    ids = np.array([f"m{row}" for row in range(13)])
    values[4, 0, 7] = np.nan
    total = np.nansum(values, axis=0, keepdims=True) / share
    refuse_sums(np.concatenate([values, 1.02 * total]), ids, "a.csv")
    for spread in (0, 1e-4):
        alike = values[:1] * (1 + spread * np.random.default_rng(1).random((9, 1, 1), np.float32))
        refuse_sums(alike, ids, "a collapsed set")
    with pytest.raises(DataError, match=f"'m12' is the {what} of all other series; leave it out"):
        refuse_sums(np.concatenate([values, total]), ids, "a.csv")
