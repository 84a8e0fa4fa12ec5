"""Units: amounts and rates, and what the name of a column says."""

import pytest

from ttsgan.data.units import aggregation_of, named_unit
from ttsgan.errors import DataError


@pytest.mark.parametrize(
    ("unit", "how"), [("kWh", "sum"), ("m3", "sum"), ("kWh/h", "mean"), ("kW", "mean"), ("°C", "mean"), ("%", "mean")]
)
def test_units_decide(unit, how):
    assert aggregation_of(unit) == how
    assert aggregation_of(unit, "sum") == "sum"


@pytest.mark.parametrize("unit", ["", "furlong", "kWh/hh"])
def test_unknown_units_ask(unit):
    with pytest.raises(DataError, match=r"set data\.aggregate"):
        aggregation_of(unit)
    assert aggregation_of(unit, "mean") == "mean"


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        *(("kWh", "kWh"), ("energy_kwh", "kWh"), ("Energy (kWh)", "kWh"), ("KWH/hh (per half hour)", "kWh")),
        *(("Power [kW]", "kW"), ("usage kw", "kW"), ("Flow (m3/h)", "m3/h"), ("temp (\u00b0C)", "\u00b0C")),
        *(("value", ""), ("load", ""), ("show", ""), ("reading (raw)", ""), ("k", "")),
    ],
)
def test_units_in_names(column, unit):
    assert named_unit(column) == unit
