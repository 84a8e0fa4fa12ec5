"""What series hold that they should not."""

import numpy as np
import pytest

from ttsgan.data.doubts import CODE_TIMES, alike, look_like_registers, refuse_codes
from ttsgan.errors import DataError


def draw(shape=(12, 1, 500), seed=0):
    return np.random.default_rng(seed).gamma(1.0, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize(("code", "side"), [(-999.0, "below -499.5"), (-99.0, "below -49.5"), (9999.0, "above 4999.5")])
def test_codes_for_missing_values_are_refused(code, side):
    values = draw()
    values[2:4, 0, :6] = code
    with pytest.raises(
        DataError, match=f"the value {code:g} stands 12 times, in 2 of 12 series, and no other is {side}"
    ):
        refuse_codes(values, "a.csv")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (draw() * 100, "values of their own"),
        (np.where(draw() > 1, -999, draw() * -700).astype(np.float32), "others are nearly as low"),
        (np.append(draw().ravel(), [-999] * (CODE_TIMES - 1)).reshape(1, 1, -1), "seldom"),
        (np.append(draw().ravel(), [-9] * 50).reshape(1, 1, -1), "one digit says little"),
        (np.append(draw().ravel(), [-150] * 50).reshape(1, 1, -1), "no nines"),
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
