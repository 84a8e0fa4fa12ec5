"""The ledger of the benchmarks: rows that were made are made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ladder

from ttsgan import recipes


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rows.jsonl"


def key(*settings: str) -> dict:
    return {"split": 0, "config": recipes.to_dict(recipes.override(recipes.quick(), settings))}


def test_a_row_is_made_once_also_by_another_process(file):
    made = ladder.Ledger(file).row(key(), lambda: {"headline": 1.5})
    again = ladder.Ledger(file).row(key(), lambda: pytest.fail("made again"))
    assert made == again == {"headline": 1.5}


@pytest.mark.parametrize("other", [("seed=1",), ("data.source=meters.csv",)])
def test_other_settings_make_another_row(file, other):
    ladder.Ledger(file).row(key(), lambda: {"headline": 1.5})
    assert ladder.Ledger(file).row(key(*other), lambda: {"headline": 1.25}) == {"headline": 1.25}


def test_rows_of_other_code_are_made_again_unless_asked_for(file, monkeypatch):
    ladder.Ledger(file).row(key(), lambda: {"headline": 1.5})
    monkeypatch.setattr(ladder, "code_version", lambda: "other")
    assert ladder.Ledger(file, any_code=True).row(key(), lambda: {"headline": 1.25}) == {"headline": 1.5}
    assert ladder.Ledger(file).row(key(), lambda: {"headline": 1.25}) == {"headline": 1.25}


def test_half_a_line_of_a_killed_process_is_taken_away(file):
    ladder.Ledger(file).row(key(), lambda: {"headline": 1.5})
    with file.open("a") as lines:
        lines.write('{"key": {"split": 1')
    ledger = ladder.Ledger(file)
    ledger.row(key("seed=1"), lambda: {"headline": 1.25})
    assert [line["row"]["headline"] for line in ladder.Ledger(file).lines] == [1.5, 1.25]
