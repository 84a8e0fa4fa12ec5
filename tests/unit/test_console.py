"""Progress where no terminal overwrites it."""

import time

from ray_jobs import console


def test_without_a_terminal_progress_is_told_once_and_seldom(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    made = console.Console()
    with made.working("counting"):
        for seconds, text in (
            (9, "early"),
            (1, "one"),
            (10, "one"),
            (10, "one"),
            (5, "two"),
            (2, "early"),
            (10, "three"),
        ):
            now[0] += seconds
            made.progress(text)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["counting", "one", "two", "three", "47 s"]


def test_text_is_never_taken_for_markup(capsys):
    made = console.Console()
    made.say("a[/x] [red]")
    made.table("[b]", [("c[/y]", "[green]")])
    said = capsys.readouterr().out
    assert all(text in said for text in ("a[/x] [red]", "[b]", "c[/y]", "[green]"))
