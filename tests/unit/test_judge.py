"""What the judge says of the sets it is given."""

import contextlib

import numpy as np
import pytest

from ray_jobs import judge
from ray_jobs.console import Console
from ray_jobs.judge import apart_question, judge_files, questions, start_question, unit_question
from ttsgan import recipes
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location
from ttsgan.data.store import write_store
from ttsgan.evaluation.judged import Judged


def test_another_unit_is_asked_about():
    def homes(scale):
        values = np.random.default_rng(0).gamma(1.0, scale, (20, 1, 48)).astype(np.float32)
        starts = np.full(20, np.datetime64("2013-01-01", "s"))
        return Judged(values=values, entities=np.arange(20).astype(str), starts=starts, step_seconds=3600, unit="")

    assert unit_question(homes(1.0), homes(4.0), "synthetic") == ""
    for scale in (1000.0, 0.001):
        told = unit_question(homes(1.0), homes(scale), "synthetic")
        assert "synthetic series" in told
        assert "another unit" in told


def judged(values, starts):
    count = len(values)
    starts = np.broadcast_to(np.array(starts, "datetime64[s]"), count).copy()
    return Judged(values=values, entities=np.arange(count).astype(str), starts=starts, step_seconds=3600, unit="")


def test_series_without_readings_have_no_size():
    """Two in three of the synthetic ones: the median over all of them would be 0."""
    values = np.random.default_rng(0).gamma(1.0, 1.0, (30, 2, 48)).astype(np.float32)
    holes = values.copy()
    holes[::3], holes[1::3] = np.nan, np.nan
    train = judged(values, "2013-01-01")
    assert unit_question(train, judged(holes, "2013-01-01"), "synthetic") == ""
    assert "another unit" in unit_question(train, judged(1000 * holes, "2013-01-01"), "synthetic")
    assert unit_question(train, judged(np.full_like(values, np.nan), "2013-01-01"), "synthetic") == ""


def test_other_weekdays_or_hours_are_asked_about():
    values = np.ones((4, 1, 48), np.float32)
    tuesday, days = judged(values, "2013-01-01"), [f"2013-01-0{day}" for day in range(1, 5)]
    for starts in ("2013-01-01", "2021-01-05", days):
        assert start_question(tuesday, judged(values, starts)) == ""
        assert start_question(judged(values, starts), tuesday) == ""
    told = start_question(tuesday, judged(values, ["2021-01-01"] * 3 + ["2013-01-01"]))
    assert "synthetic series start on a Friday at 00:00:00, most training series on a Tuesday at 00:00:00" in told
    assert "Tuesday at 12:30:00" in start_question(tuesday, judged(values, "2013-01-01T12:30"))


def test_synthetic_series_that_are_held_out_ones_are_told():
    values = np.random.default_rng(0).gamma(1.0, 1.0, (30, 1, 48)).astype(np.float32)
    values[12, 0, 3] = np.nan
    train, holdout, other = (judged(values[10 * i : 10 * i + 10], "2013-01-01") for i in range(3))
    assert list(questions(train, holdout, other)) == []
    values[19] = 0
    holdout = judged(values[10:20], "2013-01-01")
    mixed = judged(np.concatenate([values[20:], values[11:14], values[19:20]]), "2013-01-01")
    (told,) = questions(train, holdout, mixed)
    assert told.startswith("3 of 14 synthetic series are series of the holdout")


@pytest.mark.parametrize(("precision", "told"), [(0.0, "only 0% of"), (0.04, "only 4% of"), (0.06, ""), (0.9, "")])
def test_disjoint_sets_are_told(precision, told):
    metrics = [{"name": "ramp", "value": 0.0}, {"name": "precision (shortfall from 1)", "value": precision}]
    assert apart_question({"metrics": metrics}).startswith(told)
    assert bool(apart_question({"metrics": metrics})) == bool(told)
    assert apart_question({"metrics": metrics[:1]}) == ""


def judge_arrays(tmp_path, monkeypatch, starts, synthetic):
    """Judge arrays that tell neither dates nor step beside training series of half-hours; return the sets compared."""
    series = np.random.default_rng(0).gamma(1.0, 1.0, (20, 1, 336)).astype(np.float32)
    ids = np.array([f"m{i:02d}" for i in range(20)], dtype=object)
    starts = np.broadcast_to(np.array(starts, "datetime64[s]"), 20).copy()
    write_store(SeriesSet(ids, ids, starts, series, "", 1800), Location.parse(str(tmp_path / "train")))
    np.save(tmp_path / "holdout.npy", series[::-1, 0])
    np.save(tmp_path / "synthetic.npy", synthetic)
    seen = []

    def stop(*sets):
        seen.extend(sets[:3])
        raise InterruptedError

    monkeypatch.setattr(judge, "fidelity", stop)
    paths = [str(tmp_path / name) for name in ("train", "holdout.npy", "synthetic.npy")]
    with contextlib.suppress(InterruptedError):
        judge_files(*paths, recipes.quick(), None, "local", Console())
    return seen


def test_what_arrays_do_not_tell_is_that_of_training(tmp_path, monkeypatch, caplog, capsys):
    values = np.random.default_rng(1).gamma(1.0, 1.0, (80, 336)).astype(np.float32)
    values[:40] = np.nan
    train, *others = judge_arrays(tmp_path, monkeypatch, "2021-01-01T06:00", values)
    for other in others:
        assert (other.starts == train.starts[0]).all()
        assert other.step_seconds == 1800
    given = "so it is given the step of 1800 s and the start 2021-01-01T06:00:00 of the training series"
    assert f"synthetic.npy: it tells none, {given}" in caplog.text
    assert "2013" not in caplog.text
    assert "40 of 80 synthetic series hold no reading" in " ".join(capsys.readouterr().out.split())


def test_training_series_of_many_dates_give_none(tmp_path, monkeypatch, caplog):
    starts = np.datetime64("2021-01-01") + np.arange(20)
    values = np.random.default_rng(1).gamma(1.0, 1.0, (80, 336)).astype(np.float32)
    others = judge_arrays(tmp_path, monkeypatch, starts, values)[1:]
    assert all((other.starts == np.datetime64("2013-01-01")).all() and other.step_seconds == 1800 for other in others)
    assert "synthetic.npy: it tells no dates; 2013-01-01 is taken" in caplog.text
