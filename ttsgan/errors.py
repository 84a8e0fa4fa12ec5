"""Errors that this project raises on purpose; other modules derive more specific ones from them."""


class TtsganError(Exception):
    """Base class of all errors: a command prints the message on one line and exits with status 1.

    The status is 2 for a `ConfigError` and 3 for a `ReleaseRefused`.
    """


class ConfigError(TtsganError, ValueError):
    """A configuration field or an override has a value that is not allowed."""


class DataError(TtsganError, ValueError):
    """A file, a column or a series violates the data contract."""


class NotFittedError(TtsganError, RuntimeError):
    """A model or a run folder was used before the step that makes this use possible."""


class DivergedError(TtsganError, RuntimeError):
    """Training diverged: a loss or gradient is not finite, the generator collapsed, or workers hold different weights.

    The message states the series seen.
    """


class ReleaseRefused(TtsganError, RuntimeError):
    """The audit's verdict does not allow an export."""
