"""Every error that this project raises on purpose, and nothing else."""


class TtsganError(Exception):
    """Base class: a command that meets one prints its message on one line and exits with status 1.

    With 2 for a `ConfigError`, with 3 for a `ReleaseRefused`.
    """


class ConfigError(TtsganError, ValueError):
    """A configuration field or an override has a value that is not allowed."""


class DataError(TtsganError, ValueError):
    """A file, a column or a series is not what the data contract asks for."""


class NotFittedError(TtsganError, RuntimeError):
    """Something was asked of a model or a run folder before the step that makes it possible."""


class DivergedError(TtsganError, RuntimeError):
    """Training produced a non-finite loss, or the generator collapsed; names the series seen."""


class ReleaseRefused(TtsganError, RuntimeError):
    """The audit's verdict does not allow an export."""
