"""Validation of configuration fields."""

from ttsgan.errors import ConfigError


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` with the field's name, its value and the allowed values, unless ``holds``."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}")


def require_width(section: str, width: int, heads: int) -> None:
    """Check that the width of a network is a positive multiple of twice its number of heads."""
    require(width > 0 and heads > 0, f"{section}.width", width, "a positive whole number")
    # Rotary position embeddings rotate pairs of coordinates, so each head needs an even width.
    require(width % (2 * heads) == 0, f"{section}.width", width, f"a multiple of twice {section}.heads ({heads})")
