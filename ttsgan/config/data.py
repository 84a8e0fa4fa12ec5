"""Settings of the input data, the simulated sample, and the tokens."""

from dataclasses import dataclass

from ttsgan.config.checks import require, require_least


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Source of the series, resampling, and the holdout split."""

    source: tuple[str, ...] = ("sample",)
    """Files, folders or URIs of real series, or ``sample`` for the simulated population."""
    step: str = ""
    """Time step to aggregate to, such as ``4h`` or ``30min``; empty keeps the step of the source."""
    entity: str = "entity"
    """Column that names the household or meter to protect; without this column each ``id`` is protected."""
    holdout: str = "auto"
    """Share of entities held out, above 0 and below 1, or the path of a holdout; ``auto``: 0.5 for the simulated
    sample, 0.25 for real data."""
    aggregate: str = "auto"
    """How steps are aggregated: ``sum``, ``mean``, or ``auto``, which depends on the unit: energy is summed, rates and
    levels are averaged."""
    unit: str = ""
    """Unit of sources that state none, such as ``kWh``."""
    step_seconds: int = 0
    """Time step of sources that state none, in seconds; 0: the year divided by the length."""
    start: str = ""
    """First time stamp of sources that state none (ISO 8601); empty: 2013-01-01."""
    period: str = ""
    """Period to take from every series, such as ``2013-01-01/2014-01-01``, end excluded; empty: all data.

    Values outside the period are dropped; values absent within it count as missing. So the ids of a long table may
    begin and end at different times.
    """
    min_observed: float = 0.5
    """Smallest share of observed values of a series, above 0, up to 1; series below it are set aside."""
    canaries: int = 0
    """Implausible series made for the audit to measure memorisation: 0 (none), or 20 or more. A fair coin decides for
    each whether it is trained on. A run with canaries releases nothing."""

    def __post_init__(self) -> None:
        require(len(self.source) > 0 and all(self.source), "data.source", self.source, "at least one path")
        require(self.aggregate in ("auto", "sum", "mean"), "data.aggregate", self.aggregate, "auto, sum, mean")
        require(self.step_seconds >= 0, "data.step_seconds", self.step_seconds, "0 or a number of seconds")
        ok = self.canaries == 0 or self.canaries >= 20
        require(ok, "data.canaries", self.canaries, "0 (none) or at least 20, of which a coin plants half")
        require(0 < self.min_observed <= 1, "data.min_observed", self.min_observed, "above 0, up to 1")
        fraction = self.holdout_fraction()
        require(
            fraction is None or 0 < fraction < 1,
            "data.holdout",
            self.holdout,
            "above 0 and below 1, or a path",
        )

    @property
    def is_sample(self) -> bool:
        """Whether the source is the built-in simulated population."""
        return self.source == ("sample",)

    def holdout_fraction(self) -> float | None:
        """Return the share of entities to hold out, or None when ``holdout`` is a path."""
        if self.holdout == "auto":
            return 0.5 if self.is_sample else 0.25
        try:
            return float(self.holdout)
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """The simulated population behind ``--data sample``."""

    households: int = 10_000
    """Number of simulated households, held-out ones included; 1 or more."""
    length: int = 2190
    """Points per series: 8760 (a year of hourly values) or 2190 (4-hour means)."""
    seed: int = 0
    """Seed of the simulation, independent of the seed of the run; 0 or more."""

    def __post_init__(self) -> None:
        require_least(self, "sample", 1, "households")
        require_least(self, "sample", 0, "seed")
        require(self.length in (2190, 8760), "sample.length", self.length, "2190 or 8760")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig:
    """How a series is cut into tokens."""

    size: int = 0
    """Points per token; 0: one day, of at most 480 points. If it does not divide the length, the end is padded and
    masked."""

    def __post_init__(self) -> None:
        require(self.size >= 0, "patch.size", self.size, "0 (one day) or a number of points")
