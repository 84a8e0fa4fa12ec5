"""What a release says of the data that it was made from."""

from dataclasses import fields

import numpy as np
import pytest

from ray_jobs.evaluate import _changes, loosened_line
from ray_jobs.export import _readme
from ttsgan import recipes
from ttsgan.data.storage import Location
from ttsgan.data.store import series_metadata, write_part
from ttsgan.evaluation.gate import Thresholds


def test_looser_limits_are_named_and_stricter_ones_are_not():
    config = recipes.quick()
    assert loosened_line(config) == ""
    assert loosened_line(recipes.override(config, ["audit.auc=0.53", "audit.max_targets=9000"])) == ""
    assert loosened_line(recipes.override(config, ["cluster.max_dominance=0.1", "cluster.min_group_size=20"])) == ""
    looser = loosened_line(recipes.override(config, ["audit.auc=0.9", "audit.tpr=0.5"]))
    named = "audit.auc = 0.9, usually 0.55, audit.tpr = 0.5, usually 0.02"
    assert looser == f"LIMITS OF THE AUDIT WERE LOOSENED: {named}."


SETTABLE = [
    (section, limit.name)
    for section in ("audit", "cluster")
    for limit in fields(Thresholds)
    if hasattr(getattr(recipes.quick(), section), limit.name)
]


@pytest.mark.parametrize(("section", "limit"), SETTABLE)
def test_every_limit_that_can_be_set_is_named_when_it_is_looser(section, limit):
    looser = 10 if limit == "min_group_size" else 0.9
    told = loosened_line(recipes.override(recipes.quick(), [f"{section}.{limit}={looser}"]))
    assert told.endswith(f": {section}.{limit} = {looser}, usually {getattr(Thresholds(), limit):g}.")


@pytest.mark.parametrize("channels", [1, 2])
def test_the_first_lines_that_a_receiver_types_draw_a_series(tmp_path, channels, monkeypatch):
    """The lines of the release's own README are run, as they stand."""
    values = np.arange(2 * channels * 48, dtype=np.float32).reshape(2, channels, 48)
    starts = np.array(["2013-01-01"] * 2, "datetime64[s]")
    where = Location.parse(str(tmp_path)) / "synthetic" / "part-00000.parquet"
    columns = {"synthetic_id": np.array(["a", "b"], object), "start": starts}
    write_part(where, columns, values, series_metadata("kWh", 3600, channels))
    sheet = dict.fromkeys(("min_group_size", "audits_made", "recipe", "seed", "fingerprint_of_series"), "")
    sheet |= {
        "headline": {"value": 1.0, "low": None, "high": None},
        "verdict": "PASS",
        "versions": {},
        "unit": "kWh",
        "step_seconds": 3600,
    }
    sheet |= {"length": 48, "channels": channels, "series": 2, "train_entities": 60, "holdout_entities": 60}
    sheet |= {"first_moment": "2013-01-01T00:00:00", "end": "2013-01-03T00:00:00"}
    page = _readme(sheet | {"first_line": "", "simulated_source": False, "reasons": ["all is well"]})
    assert "| Period | 2013-01-01T00:00:00 to 2013-01-03T00:00:00 |" in page
    monkeypatch.chdir(tmp_path)
    told = {}
    exec(page.split("```python")[1].split("```")[0].replace(".plot()", ".pipe(lambda shown: shown)"), told)
    np.testing.assert_array_equal(told["values"], values[0])
    assert str(told["times"][-1]) == "2013-01-02 23:00:00"
    assert ("then those of channel 1" in page) == (channels > 1)


def test_no_name_of_a_file_or_column_is_given_away():
    config = recipes.override(recipes.quick(), ["data.source=Smith_12.csv", "data.entity=customer_name", "seed=7"])
    assert _changes(config, show_data=False) == ["seed = 7"]
    assert "data.entity = customer_name" in _changes(config, show_data=True)
