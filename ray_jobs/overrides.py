"""The option ``--set``: collect all its values in one place, and refuse those that the command does not read."""

from ttsgan.errors import ConfigError


def joined(words: list[str]) -> list[str]:
    """Turn ``--set a=1 --set b=2`` into one ``--set a=1 b=2`` at the end of the command."""
    out, values, in_set = [], [], False
    for word in words:
        name, sign, value = word.partition("=")
        if name == "--set":
            in_set = True
            values += [value] if sign else []
        elif in_set and not word.startswith("-"):
            values.append(word)
        else:
            in_set = False
            out.append(word)
    if "--set" in words and not values:
        raise ConfigError("--set has no value; write --set section.field=value, such as --set generator.depth=4")
    return [*out, "--set", *values] if values else out


def check_read(overrides: tuple[str, ...], *names: str, but: tuple[str, ...] = ()) -> None:
    """Raise `ConfigError` for overrides of sections other than ``names``, and of the fields ``but``."""
    others = [text for text in overrides if text.partition(".")[0].strip() not in names]
    if others:
        allowed = ", ".join(f"{name}.FIELD=VALUE" for name in names)
        raise ConfigError(f"--set {others[0]} is not of this command; allowed: {allowed}")
    for text in overrides:
        if text.partition("=")[0].strip() in but:
            raise ConfigError(f"--set {text} is not read by this command; leave it out")
