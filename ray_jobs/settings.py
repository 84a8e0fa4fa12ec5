"""Turn the options of a command into a configuration and an open run folder."""

from dataclasses import replace

from ray_jobs.console import Console
from ray_jobs.folder import RunFolder, is_run
from ray_jobs.options import DataOptions, RunOptions
from ttsgan import recipes
from ttsgan.config import RunConfig, check_batch, check_precision
from ttsgan.data.steps import check_times
from ttsgan.data.storage import Location
from ttsgan.errors import ConfigError


def settings(general: RunOptions, data: DataOptions, known: RunConfig | None = None) -> RunConfig:
    """Return the configuration that the options ask for.

    They are applied to the configuration in ``config``; else, unless ``data`` is given, to that of the ``known`` run,
    of which a ``recipe`` keeps only the data section; else to the recipe, by default quick.

    Raises
    ------
    ConfigError
        If no data are named, a value is not allowed, or the batch cannot be shared by every number of workers that the
        run may be trained with.
    """
    asked = data.asked()
    if general.data:
        asked["source"] = general.data
    if general.holdout:
        asked["holdout"] = general.holdout
    if not (general.data or general.config or known):
        why = "--fresh starts over" if general.fresh else f"{general.out} is not a run to go on with"
        raise ConfigError(f"--data is missing and {why}; give files, or --data sample")
    if general.recipe and general.config:
        raise ConfigError("--recipe and --config are both given; allowed: one of them")
    if general.config:
        config = recipes.from_dict(Location.parse(general.config).read_json())
    elif known and not general.data:
        config = replace(recipes.by_name(general.recipe), data=known.data) if general.recipe else known
    else:
        config = recipes.by_name(general.recipe or "quick")
    config = replace(config, data=replace(config.data, **asked))
    if general.series:
        config = replace(config, generate=replace(config.generate, series=general.series))
    if general.seed < -1:
        raise ConfigError(f"--seed is {general.seed}; allowed: 0 or more")
    if general.seed >= 0:
        config = replace(config, seed=general.seed)
    config = recipes.override(config, general.set)
    # Checks that the configuration itself cannot make; they come before a folder is made.
    recipes.by_name(config.recipe)
    check_times(config.data)
    check_precision(config.training.precision, config.runtime.use_gpu)
    most = max(config.runtime.num_workers, 1)
    check_batch(config.training, range(config.runtime.min_workers or most, most + 1))
    return config


def open_run(general: RunOptions, data: DataOptions, console: Console) -> RunFolder:
    """Open or make the run folder, and print its recipe and what differs from it."""
    where = Location.parse(general.out)
    folder = RunFolder.load(where) if not general.fresh and is_run(where) else None
    config = settings(general, data, folder and folder.config)
    if config.runtime.num_workers == 0 and not where.is_local:
        raise ConfigError(
            f"runtime.num_workers is 0, which trains in this process alone, and --out {where} is not on this machine; "
            "give a local --out, or set runtime.num_workers=1"
        )
    # A resumed run needs only its store; check the source files only where they are named again: they may be gone.
    if folder is None or general.data:
        folder = RunFolder.create(where, config, general.fresh)
    else:
        folder.go_on(config, reads_again=False)
    changed = [f"{name} = {value}" for name, value in recipes.changes(folder.config).items()]
    console.say(f"run {where}: recipe {folder.config.recipe}" + "".join(f"\n    {line}" for line in changed))
    return folder
