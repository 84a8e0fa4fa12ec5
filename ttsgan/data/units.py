"""Units of measurement: amounts per step or rates, and the unit in the name of a column."""

import re

from ttsgan.errors import DataError

SUMMED = frozenset(
    (
        *("wh", "kwh", "mwh", "gwh", "varh", "kvarh", "vah", "kvah", "j", "kj", "mj", "gj", "m3", "m³", "l"),
        *("liter", "litre", "liters", "litres", "gal", "therm", "therms"),
    )
)
"""Amounts per step, in lower case: a longer step holds their sum."""
AVERAGED = frozenset(
    (
        *("w", "kw", "mw", "gw", "va", "kva", "mva", "var", "kvar", "wh/h", "kwh/h", "mwh/h", "gwh/h", "m3/h", "m³/h"),
        *("l/h", "l/min", "m3/s", "m³/s", "°c", "degc", "celsius", "k", "kelvin", "°f", "degf", "%", "pu", "p.u."),
        *("v", "kv", "a", "ma", "hz", "m/s", "w/m2", "w/m²", "kw/m2", "kw/m²", "pa", "hpa", "bar", "mbar", "ppm"),
    )
)
"""Rates and levels, in lower case: a longer step holds their mean."""
_OF_POWER = {
    **{"wh": "Wh", "kwh": "kWh", "mwh": "MWh", "w": "W", "kw": "kW", "mw": "MW", "wh/h": "Wh/h", "kwh/h": "kWh/h"},
    **{"kwh/hh": "kWh", "m3": "m3"},
}
"""Units recognised without a bracket in a column name, such as ``kwh`` or ``energy_kwh``; ``kwh/hh``, per half hour, is
an amount per step."""


def aggregation_of(unit: str, setting: str = "auto") -> str:
    """Return ``sum`` for amounts per step, ``mean`` for rates and levels; `DataError` for an unknown unit.

    A ``setting`` other than ``auto`` is returned as it is.
    """
    if setting != "auto":
        return setting
    plain = unit.strip().lower()
    if plain in SUMMED:
        return "sum"
    if plain in AVERAGED:
        return "mean"
    raise DataError(
        f"unit {unit or 'unknown'!r}: cannot tell whether its steps are summed or averaged; set data.aggregate"
        " (--aggregate) to sum or mean, or data.unit to a known unit such as kWh or kW"
    )


def bracketed_unit(column: str) -> str:
    """Return the unit in brackets in a column name, such as ``Energy (kWh)``; "" if there is none."""
    in_bracket = re.search(r"[(\[]\s*(.+?)\s*[)\]]", column)
    plain = in_bracket[1].lower() if in_bracket else ""
    return in_bracket[1] if plain in SUMMED | AVERAGED else _OF_POWER.get(plain, "")


def named_unit(column: str) -> str:
    """Return the unit in a column name, such as ``Energy (kWh)``, ``kw`` or ``usage_kwh``; "" if there is none."""
    if unit := bracketed_unit(column):
        return unit
    last = re.split(r"[_\s]", re.split(r"[(\[]", column)[0].strip().lower())[-1]
    return _OF_POWER.get(last, "")
