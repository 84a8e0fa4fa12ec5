"""What is read, how it is cut, and the simulated sample."""

from dataclasses import dataclass

from ttsgan.config.checks import require


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read, how it is resampled, and how it is split."""

    source: tuple[str, ...] = ("sample",)
    """Files, folders or URIs of real series, or ``sample`` for the simulated population."""
    step: str = ""
    """Step to aggregate to, such as ``4h`` or ``30min``; empty keeps the step of the source."""
    entity: str = "entity"
    """Column that names the household or meter to protect; a source without it protects each ``id``."""
    holdout: str = "auto"
    """Share of entities held out (0 to 1), or the path of a holdout; ``auto``: 0.5 of the sample, 0.25 of real data."""
    aggregate: str = "auto"
    """How steps are joined: ``sum``, ``mean``, or ``auto`` by the unit (energy summed, rates and levels averaged)."""
    unit: str = ""
    """Unit of sources that carry none, such as ``kWh``."""
    step_seconds: int = 0
    """Step of sources that carry none, in seconds; 0: the year divided by the length."""
    start: str = ""
    """First time stamp of sources that carry none (ISO 8601); empty: 2013-01-01."""
    period: str = ""
    """Span to take of every series, such as ``2013-01-01/2014-01-01``, the end not in it; empty: all there is.

    What lies outside is left out, what is not there is missing: ids of a long table may begin and end when they like.
    """
    min_observed: float = 0.5
    """Share of observed values (0 to 1) below which a series is set aside."""
    canaries: int = 0
    """Implausible series made for the audit to measure memory, 20 or more; a fair coin plants each; such a run releases
    none."""

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
    """Number of simulated households, held-out ones included."""
    length: int = 2190
    """Points per series: 8760 (hourly year) or 2190 (4-hour means)."""
    seed: int = 0
    """Seed of the simulation; apart from the seed of the run."""

    def __post_init__(self) -> None:
        require(self.households >= 1, "sample.households", self.households, "1 or more")
        require(self.length in (2190, 8760), "sample.length", self.length, "2190 or 8760")
        require(self.seed >= 0, "sample.seed", self.seed, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig:
    """How a series is cut into tokens."""

    size: int = 0
    """Points per token; 0: one day, of 480 points at most. A length that it does not divide is padded under a mask."""

    def __post_init__(self) -> None:
        require(self.size >= 0, "patch.size", self.size, "0 (one day) or a number of points")
