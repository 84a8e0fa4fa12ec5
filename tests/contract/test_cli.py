"""The command line: frozen commands and options, exit statuses, one clear line for each kind of bad usage."""

import json
import re

import numpy as np
import pytest
from commands import complaint, small_store

from ray_jobs.cli import COMMANDS, main
from ray_jobs.overrides import joined

READING = "step entity unit step-seconds start aggregate"
RUNNING = f"out data holdout recipe config set series seed fresh address {READING}"
OPTIONS = {
    "run": f"{RUNNING} accept-unproven",
    "prepare": f"source out {READING}",
    "train": f"{RUNNING} profile",
    "encode": "out address",
    "cluster": "out address",
    "generate": "out address series",
    "evaluate": "out address",
    "audit": "out address",
    "export": "out address accept-unproven",
    "report": "out address",
    "judge": f"train holdout synthetic out set seed address {READING}",
    "tune": f"{RUNNING} trials",
    "submit": "address no-follow working-dir env",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_frozen(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out.split("options", 1)[1]
    shown = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", said))
    assert set(OPTIONS[command].split()) <= shown
    assert shown - set(OPTIONS[command].split()) <= {"help", "data", "set"}


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_says_what_it_is(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert re.findall(r"(--[a-z-]+)(?: STR| INT| \[STR \[STR \.\.\.\]\])? \((?:required|default)", said) == []


def test_every_command_is_known():
    assert set(COMMANDS) == set(OPTIONS)


@pytest.mark.parametrize(
    "words", ["--set a=1 b=2 --out x", "--set a=1 --out x --set b=2", "--set=a=1 --out x --set b=2"]
)
def test_overrides_after_one_option_or_several(words):
    assert joined(["run", *words.split()]) == ["run", "--out", "x", "--set", "a=1", "b=2"]


@pytest.mark.parametrize("command", ["judge --train a --holdout b --synthetic c", "prepare --source a --out b"])
def test_overrides_that_a_command_does_not_read_are_refused(command, capsys):
    status, line = complaint(capsys, [*command.split(), "--set", "generator.depth=4"])
    assert status == 2
    assert "--set generator.depth=4 is not of this command; allowed: " in line


def test_an_override_without_a_value(capsys):
    status, line = complaint(capsys, ["run", "--data", "sample", "--out", "x", "--set"])
    assert status == 2
    assert "--set has no value" in line


def test_unknown_override(tmp_path, capsys):
    words = ["run", "--data", "sample", "--out", str(tmp_path / "r"), "--set", "generator.depht=4"]
    status, line = complaint(capsys, words)
    assert status == 2
    assert "generator.depht" in line
    assert "depth" in line
    assert not (tmp_path / "r").exists()


def test_missing_file(tmp_path, capsys):
    status, line = complaint(capsys, ["run", "--data", str(tmp_path / "no.parquet"), "--out", str(tmp_path / "r")])
    assert status == 1
    assert "no.parquet" in line
    assert not (tmp_path / "r").exists()


def test_options_without_data_do_not_fall_back_on_the_sample(tmp_path, capsys):
    words = ["run", "--out", str(tmp_path / "run"), "--recipe", "base", "--step", "4h"]
    status, line = complaint(capsys, words)
    assert status == 2
    assert "--data is missing" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "-7"], "--seed is -7"),
        (["--set", "recipe=foo"], "foo"),
        (["--step", "foo"], "foo"),
        (["--start", "soon"], "data.start is 'soon'"),
        (["--set", "data.period=soon"], "data.period is 'soon'"),
        (["--start", "0001-01-01T00:00+05:00"], "data.start is"),
        (["--", "--set", "sample.households=20"], "only submit"),
    ],
)
def test_options_are_checked_before_a_folder_is_made(tmp_path, capsys, words, told):
    status, line = complaint(capsys, ["run", "--data", small_store(tmp_path), "--out", str(tmp_path / "r"), *words])
    assert status == 2
    assert told in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["prepare", "--source", "a.csv", "--out", "s"], "data.source=s"),
        (["judge", "--train", "a", "--holdout", "b", "--synthetic", "c"], "data.min_observed=0.2"),
    ],
)
def test_fields_that_a_command_does_not_read_are_refused(capsys, words, field):
    status, line = complaint(capsys, [*words, "--set", field])
    assert status == 2
    assert f"--set {field} is not read by this command" in line


def test_trials_are_checked_before_a_folder_is_made(tmp_path, capsys):
    words = ["tune", "--data", "sample", "--out", str(tmp_path / "r"), "--trials", "0"]
    status, line = complaint(capsys, words)
    assert (status, line) == (2, "ttsgan: --trials is 0; allowed: 1 or more")
    assert not (tmp_path / "r").exists()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ttsgan 0.")


def test_batch_that_some_number_of_workers_cannot_share(tmp_path, capsys):
    elastic = ["--set", "runtime.num_workers=4", "runtime.min_workers=1"]
    status, line = complaint(capsys, ["train", "--data", "sample", "--out", str(tmp_path / "r"), *elastic])
    assert status == 2
    assert line == "ttsgan: training.batch_size is 8; allowed with 1 to 4 workers: a multiple of 48, such as 48"
    assert not (tmp_path / "r").exists()


def test_bad_recipe_and_two_starting_points(tmp_path, capsys):
    words = ["run", "--data", "sample", "--out", str(tmp_path / "r"), "--recipe", "huge"]
    status, line = complaint(capsys, words)
    assert status == 2
    assert "quick" in line
    status, line = complaint(capsys, [*words[:-1], "quick", "--config", "x.json"])
    assert status == 2
    assert "--config" in line


def test_unreachable_storage(tmp_path, capsys):
    uri = "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http"
    status, line = complaint(capsys, ["run", "--data", uri, "--out", str(tmp_path / "r")])
    assert status == 1
    assert "cannot reach" in line


def test_bad_usage_exits_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["run", "--oot", "x"])
    assert stop.value.code == 2


def test_judge_needs_no_run_folder(tmp_path, capsys):
    rng = np.random.default_rng(1)
    for name in ("train", "holdout", "synthetic"):
        np.save(tmp_path / f"{name}.npy", rng.gamma(1.0, 0.4, (40, 336)).astype(np.float32))
    words = ["judge"]
    for name in ("train", "holdout", "synthetic"):
        words += [f"--{name}", str(tmp_path / f"{name}.npy")]
    words += ["--unit", "kWh/h", "--step-seconds", "3600", "--out", str(tmp_path / "out")]
    words += ["--set", "evaluate.bootstrap=20", "evaluate.classifier_seeds=2"]
    assert main(words) in (0, 3)
    out = tmp_path / "out"
    evaluation, audit = (json.loads((out / f"{name}.json").read_text()) for name in ("evaluation", "audit"))
    assert evaluation["schema_version"] == audit["schema_version"] == 2
    assert {"value", "low", "high"} <= set(evaluation["headline"])
    assert {m["family"] for m in evaluation["metrics"]} >= {"marginal", "dynamics", "neighbours", "classifier"}
    assert audit["verdict"] in ("FAIL", "INVALID", "UNPROVEN")
    assert audit["reasons"]
    keys = {"attack", "name", "stratum", "value", "low", "high", "threshold", "passed", "informs", "explains"}
    assert all(keys <= set(check) for check in audit["checks"])
    assert len(audit["attempts"]) == 1
    assert main(words) in (0, 3)
    assert len(json.loads((tmp_path / "out" / "audit.json").read_text())["attempts"]) == 2
    assert (tmp_path / "out" / "report.html").is_file()
