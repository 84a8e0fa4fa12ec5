"""Options that several commands share; the words after each are its help."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How real series are read."""

    step: str = ""
    """Step to aggregate to, such as 4h or 30min; by default the step of the data."""
    entity: str = ""
    """Column that names the household or meter to protect; by default 'entity', or else 'id'."""
    unit: str = ""
    """Unit of data that carry none, such as kWh."""
    step_seconds: int = 0
    """Step in seconds of data that carry none; by default the year divided by the length."""
    start: str = ""
    """First time stamp of data that carry none (ISO 8601); by default 2013-01-01."""
    aggregate: str = ""
    """How steps are joined: sum or mean; by default the unit decides."""

    def asked(self) -> dict[str, str | int]:
        """Return the options that were given."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is run, and where."""

    out: str
    """Run folder: a local path or a URI such as s3://bucket/run."""
    data: tuple[str, ...] = ()
    """Files of real series (Parquet, CSV, .npy), folders of Parquet or CSV, URIs, or 'sample': simulated households."""
    holdout: str = ""
    """Share of entities held out, or the path of a holdout; by default 0.25, of the sample 0.5."""
    recipe: str = ""
    """quick (two cores, ten minutes), base (two cores, longer) or large (GPUs); by default quick."""
    config: str = ""
    """Saved config.json or best.json to start from, instead of a recipe."""
    set: tuple[str, ...] = ()
    """Overrides such as generator.depth=4, one or several."""
    series: int = 0
    """Series to write; by default as many as there are training entities."""
    seed: int = -1
    """Seed of the run; by default 0, or that of --config or of the run that is gone on with."""
    fresh: bool = False
    """Start over in a folder that holds another run, which is removed."""
    address: str = "local"
    """Ray cluster to join ('auto' inside a job), or 'local' to start one for this command."""


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """An existing run folder."""

    out: str
    """Run folder that 'ttsgan run' made."""
    address: str = "local"
    """Ray cluster to join ('auto' inside a job), or 'local' to start one for this command."""
