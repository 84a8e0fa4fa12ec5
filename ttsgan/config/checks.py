"""How a field says that its value is not allowed."""

from ttsgan.errors import ConfigError


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` that names the field, its value and what is allowed, unless ``holds``."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}")


def require_width(section: str, width: int, heads: int) -> None:
    """Check the width of a network against its heads."""
    require(width > 0 and heads > 0, f"{section}.width", width, "a positive whole number")
    # Rotary positions turn pairs of coordinates, so each head has an even width.
    require(width % (2 * heads) == 0, f"{section}.width", width, f"a multiple of twice {section}.heads ({heads})")
