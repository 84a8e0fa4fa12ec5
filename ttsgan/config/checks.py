"""Validation of configuration fields."""

from ttsgan.errors import ConfigError


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` with the field's name, its value and the allowed values, unless ``holds``."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}")


def require_least(config: object, section: str, least: float, *names: str) -> None:
    """Check that these fields of a section are ``least`` or more."""
    for name in names:
        value = getattr(config, name)
        require(value >= least, f"{section}.{name}", value, f"{least} or more")


def require_share(config: object, section: str, *names: str) -> None:
    """Check that these fields of a section are 0 or more and below 1."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, f"{section}.{name}", value, "0 to below 1")


def require_width(section: str, width: int, heads: int) -> None:
    """Check that the width of a network is a positive multiple of twice its number of heads."""
    require(width > 0 and heads > 0, f"{section}.width", width, "a positive whole number")
    # Rotary position embeddings rotate pairs of coordinates, so each head needs an even width.
    require(width % (2 * heads) == 0, f"{section}.width", width, f"a multiple of twice {section}.heads ({heads})")
