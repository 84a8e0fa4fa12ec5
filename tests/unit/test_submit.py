"""What is sent to a Ray cluster: the command, the files, the notes; no Ray is started."""

import shlex
import zipfile
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from ray_jobs import cli
from ray_jobs import submit as module
from ray_jobs.failures import ClusterError
from ray_jobs.submit import command_line, exit_status, make_runtime_env, normal_address, notes, pack, submit
from ttsgan.errors import ConfigError

URL = "http://127.0.0.1:8265"


def _job(status, code=None):
    return JobDetails(type=JobType.SUBMISSION, entrypoint="x", status=status, driver_exit_code=code)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("head:8265", "http://head:8265"),
        ("127.0.0.1", "http://127.0.0.1:8265"),
        ("https://ray.example.org/", "https://ray.example.org:443"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_addresses_are_those_of_a_dashboard(given, expected):
    assert normal_address(given) == expected


def test_main_submits_the_words_that_it_was_given(monkeypatch):
    """Not those of the process, which a program that calls `main` was started with."""
    sent = []
    monkeypatch.setattr(module, "submit", lambda *args, **named: sent.append((args, named)) or 0)
    words = ["run", "--data", "s3://a/b", "--set", "seed=1", "--"]
    assert cli.main(["submit", "--address", "http://x:1", "--env", "A=b", "--no-follow", "--", *words]) == 0
    named = {"working_dir": None, "env": {"A": "b"}, "follow": False}
    assert sent == [(("http://x:1", words), named)]


@pytest.mark.parametrize(
    "given", ["auto", "ray://head:10001", "http://user:word@head:8265", "http://head/x", "", "a b"]
)
def test_other_addresses_are_refused(given):
    with pytest.raises(ConfigError, match=r"is not the address of a Ray dashboard; use http://HOST:8265"):
        normal_address(given)


def test_the_command_survives_the_shell_and_joins_the_cluster():
    words = ["run", "--data", "s3://bucket/a b.parquet", "--set", "x=$HOME;'"]
    line = command_line(["ttsgan", *words])
    assert shlex.split(line) == ["python", "-m", "ray_jobs.cli", *words, "--address", "auto"]
    assert command_line(words) == line
    assert not command_line(["prepare", "--source", "a.csv", "--out", "b"]).endswith("auto")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a command after --"),
        (["submit", "--address", "x"], "is 'submit' itself"),
        (["run", "--address=auto"], "leave --address out"),
        (["run", "--data", "s3://key:secret@bucket/x"], "carries credentials"),
    ],
)
def test_commands_that_cannot_work_are_refused_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as error:
        command_line(words)
    assert "secret@" not in str(error.value)
    assert "\n" not in str(error.value)


def test_local_paths_are_noted(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    words = ["run", "--data", "a.csv", "b.csv", "--out=/shared/run", "--holdout", "0.25", "--seed", "3", "--set", "a=1"]
    [line] = notes(URL, words)
    assert line.startswith("note: a.csv, b.csv, /shared/run: paths on the cluster's machines")
    assert notes(URL, ["run", "--data", "sample", "--out", "s3://bucket/run"]) == []
    (tmp_path / "best.json").write_text("{}")
    assert notes(URL, ["run", "--config", "best.json", "--out", "s3://bucket/run"], tmp_path) == []


def test_a_token_in_clear_over_the_network_is_noted(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    words = ["report", "--out", "s3://bucket/run"]
    assert notes(URL, words) == notes("https://head:443", words) == []
    assert notes("http://head:8265", words) == [
        "note: the token travels unencrypted to head; use https or a port-forward"
    ]


def test_the_upload_leaves_out_data_runs_caches_and_hidden_files(tmp_path):
    folder = tmp_path / "project"
    kept = ["best.json", "package/data/__init__.py", "package/run.sh"]
    left_out = [".git/HEAD", ".env", "data/a.csv", "runs/r/x", "package/__pycache__/a.pyc", "package/.cache/x", "b.pyc"]
    for name in kept + left_out:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "package/run.sh").chmod(0o755)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    packed = pack(folder, tmp_path / "one")
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == sorted(kept)
        assert archive.getinfo("package/run.sh").external_attr >> 16 & 0o777 == 0o755
    (folder / "best.json").touch()
    assert pack(folder, tmp_path / "two").read_bytes() == packed.read_bytes()


def test_uploads_that_cannot_work_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"is not a folder"):
        pack(tmp_path / "none", tmp_path)
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"has no files to upload"):
        pack(folder, tmp_path)
    with open(folder / "sub" / "large.bin", "wb") as file:
        file.truncate(101 * 2**20)
    (folder / "small.txt").write_text("x")
    with pytest.raises(
        ConfigError, match=r"holds 101 MiB, over the 100 MiB .* largest: sub/large.bin \(101 MiB\), small"
    ):
        pack(folder, tmp_path)


def test_the_code_travels_whole(tmp_path):
    env = make_runtime_env(tmp_path, None, {"A": "b"}, upload_code=True)
    library, drivers = (Path(path) for path in env["py_modules"])
    assert (library / "data" / "store.py").is_file()
    assert (drivers / "submit.py").is_file()
    assert env["env_vars"] == {"A": "b"}
    assert not {"data", "runs"} & set(env["excludes"])
    assert make_runtime_env(tmp_path, None, None, upload_code=False) == {}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 1),
    ],
)
def test_exit_status(status, code, expected):
    assert exit_status(_job(status, code)) == expected


def test_a_cluster_that_does_not_answer_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 2.0)
    with pytest.raises(ClusterError, match=r"no Ray dashboard answers at http://127.0.0.1:9 .*port-forward") as error:
        submit("127.0.0.1:9", ["run", "--out", "s3://bucket/run"])
    assert "\n" not in str(error.value)


def test_a_token_file_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH=.*token cannot be read"):
        submit("127.0.0.1:9", ["run", "--out", "s3://bucket/run"])
