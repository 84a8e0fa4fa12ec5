"""The named recipes, and how a configuration is read, overridden and written."""

import dataclasses
import types
import typing
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ttsgan.config import RunConfig
from ttsgan.errors import ConfigError


def quick() -> RunConfig:
    """Two cores, at most ten minutes, the simulated sample or a few hundred households; ``ttsgan run`` uses it."""
    return RunConfig(recipe="quick")


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
    for text in assignments:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"override {text!r} has no '='; write section.field=value, such as generator.depth=4")
        config = _replace_at(config, name.strip().split("."), value.strip(), name.strip())
    return config


def _replace_at(node: Any, parts: list[str], value: Any, full: str) -> Any:
    known = {f.name for f in fields(node)}
    if parts[0] not in known:
        raise ConfigError(_unknown(full, known))
    hint = typing.get_type_hints(type(node))[parts[0]]
    if is_dataclass(hint) != (len(parts) > 1):
        raise ConfigError(f"override {full!r} does not name a single field; fields here: {', '.join(sorted(known))}")
    if len(parts) > 1:
        return replace(node, **{parts[0]: _replace_at(getattr(node, parts[0]), parts[1:], value, full)})
    return replace(node, **{parts[0]: _coerce(value, hint, full)})


def _unknown(full: str, known: set[str]) -> str:
    return f"unknown setting {full!r}; known here: {', '.join(sorted(known))}"


def _coerce(value: Any, hint: Any, full: str) -> Any:
    """Turn JSON values and command-line text into the type of the field, or say why not."""
    if typing.get_origin(hint) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
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
