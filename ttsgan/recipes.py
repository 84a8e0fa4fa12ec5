"""Named recipes, and functions that read, override and write a configuration."""

import dataclasses
import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any

from ttsgan.config import (
    DaysConfig,
    DiscriminatorConfig,
    EncoderConfig,
    EvaluateConfig,
    GenerateConfig,
    GeneratorConfig,
    RunConfig,
    RuntimeConfig,
    TrainingConfig,
)
from ttsgan.errors import ConfigError


def quick() -> RunConfig:
    """Return the default recipe, for two cores and ten minutes: the simulated sample, or a few hundred households."""
    return RunConfig(recipe="quick")


def base() -> RunConfig:
    """Return a recipe for two cores with a larger prior, trained on four times as many series as ``quick``."""
    return RunConfig(
        recipe="base",
        days=DaysConfig(width=128, depth=3, memory=60),
        training=TrainingConfig(max_series=100_000, days_lr=3.5e-3, checkpoint_interval=10_000),
        evaluate=EvaluateConfig(max_series=2_000, bootstrap=500),
    )


def large() -> RunConfig:
    """Return a recipe for a node with four GPUs and tens of thousands of households.

    On 5,000 households the prior's validation loss is lowest after 150,000 series: ``training.max_series=400000``,
    three minutes on one H100, is more than enough (measured before the prior drew days value by value).
    """
    return RunConfig(
        recipe="large",
        encoder=EncoderConfig(width=128, depth=4, heads=8, latent_dim=32),
        days=DaysConfig(width=384, depth=8, heads=8, memory=120, crop=244),
        generator=GeneratorConfig(width=192, depth=3, heads=8, noise_dim=32),
        discriminator=DiscriminatorConfig(width=192, depth=4, heads=8),
        training=TrainingConfig(
            max_series=2_000_000, batch_size=512, days_lr=1e-3, ema_half_life=10_000, checkpoint_interval=50_000
        ),
        generate=GenerateConfig(chunk=1024),
        evaluate=EvaluateConfig(max_series=2_000, bootstrap=500),
        runtime=RuntimeConfig(num_workers=4, use_gpu=True, cpus_per_worker=4),
    )


RECIPES = {"quick": quick, "base": base, "large": large}


def by_name(name: str) -> RunConfig:
    """Return the recipe ``name``.

    Raises
    ------
    ConfigError
        If there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe is {name!r}; allowed: {', '.join(RECIPES)}")
    return RECIPES[name]()


def to_dict(config: Any) -> dict[str, Any]:
    """Return ``config`` as nested plain dicts, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any], kind: type = RunConfig, path: str = "") -> Any:
    """Build ``kind`` from nested dicts; missing fields keep their defaults.

    Raises
    ------
    ConfigError
        If a key is unknown or a value has the wrong type or range.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{path or 'configuration'} is {tree!r}; allowed: a table of fields")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    for name in tree:
        if name not in known:
            raise ConfigError(_unknown(f"{path}.{name}".lstrip("."), known))
    values = {}
    for name, value in tree.items():
        full = f"{path}.{name}".lstrip(".")
        hint = hints[name]
        values[name] = from_dict(value, hint, full) if is_dataclass(hint) else _coerce(value, hint, full)
    return kind(**values)


def override(config: RunConfig, assignments: typing.Iterable[str]) -> RunConfig:
    """Return ``config`` with ``section.field=value`` assignments applied in order.

    Raises
    ------
    ConfigError
        If an assignment has no ``=``, names an unknown field, or has a value that the field does not allow.
    """
    if isinstance(assignments, str):
        raise ConfigError(f"assignments is {assignments!r}; allowed: a list, such as [{assignments!r}]")
    tree = to_dict(config)
    for text in assignments:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign:
            raise ConfigError(f"override {text!r} has no '='; write section.field=value, such as generator.depth=4")
        *sections, leaf = name.split(".")
        node = tree
        for section in [*sections, leaf]:
            if section not in node:
                raise ConfigError(_unknown(name, set(node)))
            inner = node[section]
            if isinstance(inner, dict) != (section is not leaf):
                raise ConfigError(f"override {name!r} does not name a single field; fields here: {', '.join(node)}")
            if isinstance(inner, dict):
                node = inner
        node[leaf] = value
    # Validate once, after all assignments: a width and the heads that divide it may change together.
    return from_dict(tree)


def _unknown(full: str, known: set[str]) -> str:
    return f"unknown setting {full!r}; known here: {', '.join(sorted(known))}"


def _coerce(value: Any, hint: Any, full: str) -> Any:
    """Convert a JSON value or command-line text to the type of the field, or raise `ConfigError`."""
    if typing.get_origin(hint) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ConfigError(f"{full} is {value!r}; allowed: a list")
        return tuple(_coerce(part, typing.get_args(hint)[0], full) for part in parts)
    assert not isinstance(hint, types.UnionType), "fields have one type"
    wrong = ConfigError(f"{full} is {value!r}; allowed: a value of type {hint.__name__}")
    if hint is bool:
        words = {"true": True, "false": False, "1": True, "0": False, "on": True, "off": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise wrong
    if hint is str:
        if not isinstance(value, str):
            raise wrong
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    try:
        if hint is int and isinstance(value, float) and not value.is_integer():
            raise wrong
        number = hint(value)
    except ValueError:
        raise wrong from None
    if number != number or number in (float("inf"), float("-inf")):
        raise wrong
    return number


def changes(config: RunConfig) -> dict[str, Any]:
    """Return the fields that differ from the recipe, by dotted name."""
    usual = flat(by_name(config.recipe))
    return {name: value for name, value in flat(config).items() if value != usual[name]}


def flat(config: RunConfig) -> dict[str, Any]:
    """Return all fields as a flat dict by dotted name, such as ``generator.depth``."""
    out = {}
    for name, value in to_dict(config).items():
        if isinstance(value, dict):
            out |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            out[name] = value
    return out
