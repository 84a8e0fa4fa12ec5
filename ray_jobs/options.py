"""Options that several commands share; the string under each field is its help text."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How real series are read."""

    step: str = ""
    """Time step to aggregate to, such as 4h or 30min; if empty, the step of the data."""
    entity: str = ""
    """Column that names the household or meter to protect; if empty, 'entity', or else 'id'."""
    unit: str = ""
    """Unit, such as kWh, for data that do not state theirs."""
    step_seconds: int = 0
    """Time step in seconds for data that do not state theirs; 0: the year divided by the length."""
    start: str = ""
    """First time stamp (ISO 8601) for data without time stamps; if empty, 2013-01-01."""
    aggregate: str = ""
    """How values are aggregated to a longer step: sum or mean; if empty, the unit decides."""

    def asked(self) -> dict[str, str | int]:
        """Return the options that were given."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to run, and where."""

    out: str
    """Run folder: a local path or a URI such as s3://bucket/run."""
    data: tuple[str, ...] = ()
    """Files of real series (Parquet, CSV, .npy), folders of Parquet or CSV, URIs, or 'sample': simulated households."""
    holdout: str = ""
    """Share of entities to hold out, or the path of a holdout; if empty, 0.25 (for the simulated sample 0.5)."""
    recipe: str = ""
    """quick (two cores, ten minutes), base (two cores, a larger model) or large (four GPUs); if empty, quick."""
    config: str = ""
    """Saved config.json or best.json to start from, instead of a recipe."""
    set: tuple[str, ...] = ()
    """One or more overrides of the configuration, such as generator.depth=4."""
    series: int = 0
    """Series to write; 0: as many as there are training entities."""
    seed: int = -1
    """Seed of the run; -1: the seed of --config or of the resumed run, or else 0."""
    fresh: bool = False
    """Start over in a folder that holds another run; that run is removed."""
    address: str = "local"
    """Ray cluster to join ('auto' inside a job), or 'local' to start one for this command."""


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """An existing run folder."""

    out: str
    """Existing run folder (made by run, train or tune)."""
    address: str = "local"
    """Ray cluster to join ('auto' inside a job), or 'local' to start one for this command."""
