"""The run folder: what is counted in it, who may work on it, and what it was made from."""

import pytest

from ray_jobs.folder import LOCK, RunFolder, input_fingerprint
from ttsgan import recipes
from ttsgan.data.storage import Location
from ttsgan.errors import DataError


def test_audits_of_the_same_households_count_over_fresh_runs(tmp_path):
    """Auditing until it passes is a leak, whether or not the run is begun anew in between."""
    where, config = Location.parse(str(tmp_path / "r")), recipes.quick()
    folder = RunFolder.create(where, config, fresh=False)
    folder.manifest["audit_attempts"].append({"verdict": "FAIL"})
    folder.save()
    other = recipes.override(config, ["seed=1"])
    assert RunFolder.create(where, other, fresh=True).manifest["audit_attempts"] == [{"verdict": "FAIL"}]
    (tmp_path / "r" / "config.json").write_text('{"of": "an older version"}')
    assert RunFolder.create(where, other, fresh=True).manifest["audit_attempts"] == [{"verdict": "FAIL"}]
    other = recipes.override(config, ["sample.seed=1"])
    assert RunFolder.create(where, other, fresh=True).manifest["audit_attempts"] == []


def test_audits_count_though_a_fresh_start_failed(tmp_path):
    where, config = Location.parse(str(tmp_path / "r")), recipes.quick()
    folder = RunFolder.create(where, config, fresh=False)
    folder.manifest["audit_attempts"].append({"verdict": "FAIL"})
    folder.save()
    again = RunFolder.create(where, config, fresh=True)
    again.start_over()
    again.withdraw()
    assert RunFolder.load(where).manifest["audit_attempts"] == [{"verdict": "FAIL"}]


def test_two_commands_do_not_work_on_one_folder(tmp_path):
    folder = RunFolder.create(Location.parse(str(tmp_path / "r")), recipes.quick(), fresh=False)
    with folder.held(), pytest.raises(DataError, match="worked on by another command"), folder.held():
        pass
    with folder.held():
        pass


def test_what_another_command_did_meanwhile_is_not_lost(tmp_path):
    """Between opening a folder and working on it a command imports for seconds; audits of another one count."""
    where = Location.parse(str(tmp_path / "r"))
    RunFolder.create(where, recipes.quick(), fresh=False)
    first, second = RunFolder.load(where), RunFolder.load(where)
    with first.held():
        first.manifest["audit_attempts"].append({"verdict": "FAIL"})
        first.finish("prepare", 1.0, {"steps": (1, 2)})
    with first.held():
        pass
    with pytest.raises(DataError, match="another command has worked on"), second.held():
        pass
    assert RunFolder.load(where).manifest["audit_attempts"] == [{"verdict": "FAIL"}]


def test_a_folder_that_cannot_be_written_to_is_told_in_one_line(tmp_path):
    """Whoever runs the tests may write everywhere: a folder in the place of the lock stands for a read-only disk."""
    folder = RunFolder.create(Location.parse(str(tmp_path / "r")), recipes.quick(), fresh=False)
    (tmp_path / "r" / LOCK).mkdir()
    with pytest.raises(DataError, match=r"r cannot be written to \(.+\); commands write there$"), folder.held():
        pass


def test_files_that_were_renamed_are_other_data(tmp_path):
    """The name of a file may be the id of its meter."""
    (tmp_path / "meters").mkdir()
    for name in ("a", "b"):
        (tmp_path / "meters" / f"{name}.csv").write_text(f"time,kwh\n2013-01-01,{name}")
    config = recipes.override(recipes.quick(), [f"data.source={tmp_path}/meters"])
    before = input_fingerprint(config)
    (tmp_path / "meters" / "b.csv").rename(tmp_path / "meters" / "c.csv")
    assert input_fingerprint(config) != before


def test_a_file_that_is_not_read_is_no_other_data(tmp_path):
    (tmp_path / "meters").mkdir()
    (tmp_path / "meters" / "a.csv").write_text("time,kwh\n2013-01-01,1")
    config = recipes.override(recipes.quick(), [f"data.source={tmp_path}/meters"])
    before = input_fingerprint(config)
    (tmp_path / "meters" / "notes.md").write_text("of whom these are")
    assert input_fingerprint(config) == before


def test_a_failed_start_leaves_the_folder_that_was_there(tmp_path):
    for name, there in (("mine", True), ("new", False)):
        if there:
            (tmp_path / name).mkdir()
        RunFolder.create(Location.parse(str(tmp_path / name)), recipes.quick(), fresh=False).withdraw()
        assert (tmp_path / name).exists() == there


def test_a_fresh_start_that_is_killed_half_way_tells_of_no_stage(tmp_path, monkeypatch):
    where = Location.parse(str(tmp_path / "r"))
    folder = RunFolder.create(where, recipes.quick(), fresh=False)
    (where / "checkpoints" / "model").write_bytes(b"old")
    folder.finish("train", 1.0, {})
    again = RunFolder.create(where, recipes.override(recipes.quick(), ["seed=1"]), fresh=True)

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Location, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            again.start_over()
    left = RunFolder.load(where)
    assert (left.manifest["stages"], left.config.seed) == ({}, 1)


def test_the_same_holdout_by_another_path_is_no_other_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data.csv", "held.csv"):
        (tmp_path / name).write_text("time,kwh\n2013-01-01,1")
    sets = ["data.source=data.csv", "data.holdout=held.csv", "training.log_interval=100"]
    folder = RunFolder.create(Location.parse("r"), recipes.override(recipes.quick(), sets), fresh=False)
    again = ["data.source=./data.csv", "data.holdout=./held.csv", "training.log_interval=200"]
    folder.go_on(recipes.override(recipes.quick(), again), reads_again=True)
    with pytest.raises(DataError, match=r"data\.holdout was '\./held\.csv' and is now '0\.3'"):
        folder.go_on(recipes.override(recipes.quick(), [*again, "data.holdout=0.3"]), reads_again=True)


def test_how_many_series_is_free_until_some_are_drawn(tmp_path):
    where, other = Location.parse(str(tmp_path / "r")), recipes.override(recipes.quick(), ["generate.series=40"])
    folder = RunFolder.create(where, recipes.quick(), fresh=False)
    folder.finish("prepare", 1.0, {})
    folder.go_on(other, reads_again=True)
    assert RunFolder.load(where).config.generate.series == 0
    folder.begin("train")
    assert RunFolder.load(where).config.generate.series == 40
    for stage in ("generate", "audit"):
        folder.manifest["stages"] = {stage: {}}
        with pytest.raises(
            DataError, match=r"generate\.series was 40 and is now 0.*ttsgan generate --out .* --series N"
        ):
            folder.go_on(recipes.quick(), reads_again=True)
