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
