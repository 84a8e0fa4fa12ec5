"""Output for the person who runs a command: headings, progress and tables."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

QUIET_SECONDS = 10.0
"""Minimum seconds between two progress lines when the output is not a terminal."""


class Console:
    """Prints headings, progress and tables; on a terminal, progress overwrites itself."""

    def __init__(self) -> None:
        self.rich = RichConsole(highlight=False, soft_wrap=True, markup=False)
        self._status = None
        self._last, self._said = 0.0, ""

    def say(self, text: str) -> None:
        """Print a line."""
        self.rich.print(text)

    @contextmanager
    def working(self, title: str) -> Iterator[None]:
        """Print ``title`` at the start of the work, and the seconds that it took at the end."""
        started = time.monotonic()
        self.say(title)
        self._last = started
        if not self.rich.is_terminal:
            yield
        else:
            with self.rich.status(Text(title)) as self._status:
                try:
                    yield
                finally:
                    self._status = None
        self.say(f"    {time.monotonic() - started:.0f} s")

    def progress(self, text: str) -> None:
        """Show how far the work is; without a terminal, print it at most every `QUIET_SECONDS`, and only if new."""
        if self._status is not None:
            self._status.update(Text(text))
        elif text != self._said and time.monotonic() - self._last >= QUIET_SECONDS:
            self._last, self._said = time.monotonic(), text
            self.say(f"    {text}")

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """Print a table of two columns."""
        table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
        table.add_column()
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, value)
        self.rich.print(table)
