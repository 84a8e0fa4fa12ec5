"""Kinds of household and appliances of the simulated population: typical numbers, set by hand."""

from typing import NamedTuple


class Archetype(NamedTuple):
    """Typical numbers of one kind of household; each home draws its own around them. Pairs: working day, day off.

    Clock times are hours after midnight and may exceed 24.
    """

    share: float  # of the population; the shares add up to 1
    wake: tuple[float, float]
    sleep: tuple[float, float]
    away: tuple[float, float]  # leave and return on a working day
    work: tuple[float, float]  # probability that a weekday, and a weekend day, of the home's week is a working day
    second: float  # probability of a second adult with a schedule of their own
    active_kw: float  # screens and small devices per adult at home and awake
    base_kw: float  # always on, without the fridge; 0 marks a meter that is nearly empty
    cook: float  # electric main meals per day, if the home cooks with electricity
    dinner: float
    busy: float  # factor on the uses of washing machine, kettle and the like
    heated: float = 0.04  # probability of electric space heating
    vehicle: float = 0.01  # probability of a car charged at home


ARCHETYPES = {
    name: Archetype(*row)
    for name, row in {
        "working_couple": (0.2, (6.6, 9), (23, 24), (8, 18), (0.9, 0.05), 0.8, 0.13, 0.075, 0.6, 19.3, 0.8),
        "family": (0.21, (6.4, 7.8), (22.8, 23.5), (8.5, 15.4), (0.85, 0.02), 0.85, 0.19, 0.115, 0.85, 17.9, 1.8),
        "retired": (0.17, (7.4, 7.7), (22.3, 22.6), (10.3, 12.3), (0.3, 0.1), 0.4, 0.12, 0.08, 0.7, 12.4, 0.9),
        "night_shift": (0.05, (16, 11.5), (33, 28), (21.2, 31), (0.7, 0.3), 0.1, 0.16, 0.085, 0.6, 17.5, 0.9),
        "electric_heating": (0.09, (6.9, 8.6), (23, 24), (9, 17), (0.65, 0.1), 0.5, 0.12, 0.075, 0.8, 18.6, 0.8, 1.0),
        "electric_vehicle": (0.05, (6.5, 8.4), (23, 24), (8, 18), (0.8, 0.1), 0.8, 0.16, 0.13, 0.7, 19, 1.2, 0.04, 1.0),
        "shared_flat": (0.11, (9, 11), (25.2, 26.4), (11, 17), (0.65, 0.15), 0.9, 0.17, 0.1, 0.65, 20.6, 1.1, 0.1),
        "home_worker": (0.1125, (7.4, 8.6), (23.4, 24), (12.5, 13.4), (0.3, 0.2), 0.3, 0.19, 0.1, 0.6, 19, 0.8),
        "near_empty": (0.0075, (8, 8), (22.5, 22.5), (11, 14), (0.3, 0.3), 0.0, 0.06, 0.0, 0.2, 18, 0.5, 0.0, 0.0),
    }.items()
}


class Appliance(NamedTuple):
    """A device that runs in bursts. Each home draws its own numbers from the ranges."""

    own: float  # probability that a home has it
    kw: tuple[float, float]
    hours: tuple[float, float]
    per_day: float  # uses
    anchor: str  # wake, back, dinner, night (low tariff), timer (the home's own hour), any (at home and awake)
    spread: float  # standard deviation around the anchor, hours, scaled by the home's regularity
    slots: int  # largest number of uses per day
    weekly: float  # unevenness over the week: standard deviation of the log of a weekday's factor
    winter: float  # relative swing of the uses over the year; positive means more in winter


APPLIANCES = {
    "breakfast kettle": Appliance(0.95, (1.8, 3.0), (0.04, 0.08), 1.0, "wake", 0.3, 1, 0.0, 0.0),
    "kettle": Appliance(0.95, (1.8, 3.0), (0.04, 0.08), 2.2, "any", 0.0, 4, 0.0, 0.0),
    "microwave": Appliance(0.85, (0.8, 1.4), (0.05, 0.2), 1.3, "any", 0.0, 3, 0.0, 0.0),
    "morning shower": Appliance(0.28, (7.0, 9.5), (0.07, 0.17), 0.9, "wake", 0.3, 2, 0.0, 0.0),
    "evening shower": Appliance(0.12, (7.0, 9.5), (0.07, 0.17), 0.5, "back", 1.2, 1, 0.0, 0.0),
    "washing machine": Appliance(0.75, (1.7, 2.3), (0.25, 0.55), 0.55, "any", 0.0, 2, 0.7, 0.0),
    "tumble dryer": Appliance(0.4, (1.8, 2.6), (0.5, 1.6), 0.35, "any", 0.0, 1, 0.7, 0.35),
    "dishwasher": Appliance(0.4, (1.5, 2.1), (0.4, 0.9), 0.65, "back", 1.5, 1, 0.2, 0.0),
    "night dishwasher": Appliance(0.12, (1.5, 2.1), (0.4, 0.9), 0.7, "night", 0.2, 1, 0.2, 0.0),
    "iron, vacuum cleaner": Appliance(0.6, (1.0, 2.2), (0.1, 0.5), 0.4, "any", 0.0, 1, 0.5, 0.0),
    "water on a timer": Appliance(0.11, (2.4, 3.1), (0.3, 1.2), 0.95, "timer", 0.05, 1, 0.0, 0.1),
    "water at night": Appliance(0.04, (2.4, 3.1), (0.7, 2.5), 0.98, "night", 0.03, 1, 0.0, 0.15),
    "portable heater": Appliance(0.18, (0.8, 2.0), (1.0, 4.0), 0.3, "dinner", 1.2, 1, 0.0, 0.95),
    "oven and hob": Appliance(0.65, (0.8, 1.7), (0.3, 1.2), 0.7, "dinner", 0.5, 1, 0.3, 0.0),
    "car": Appliance(1.0, (3.4, 7.3), (1.0, 4.0), 0.45, "night", 0.2, 1, 0.6, 0.0),
}
