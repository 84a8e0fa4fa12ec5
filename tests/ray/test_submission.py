"""Commands submitted to a Ray cluster through its Jobs API: the log, the exit status, the token."""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ray_jobs.submit import submit
from ttsgan.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = "a-token-for-this-test-only-0123456789"
PROBE = """
import os, sys
import ray
import ray_jobs, ttsgan
ray.init("auto", log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
def where():
    import ttsgan.data
    return ttsgan.__file__

print("words", sys.argv[1:-1], "setting", os.environ["PROBE_SETTING"], flush=True)
print("uploaded", "py_modules_files" in ttsgan.__file__ and "py_modules_files" in ray.get(where.remote()), flush=True)
ray.shutdown()
sys.exit(int(sys.argv[-1]))
"""


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(url):
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=2).close()
    except urllib.error.HTTPError as error:
        return error.code == 401  # the dashboard is up and asks for the token
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Start a cluster of one machine with token authentication; stop it by its process id only."""
    folder = tmp_path_factory.mktemp("h")
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    gcs, dashboard, agent, agent_grpc, metrics, client, env_agent = _free_ports(7)
    ray_temp = Path("/tmp") / f"ttsgan-{os.getpid()}"  # short enough for the paths of Ray's sockets
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    env |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    words = f"""start --head --block --num-cpus 2 --object-store-memory 100000000 --node-ip-address 127.0.0.1
        --port {gcs} --dashboard-host 127.0.0.1 --dashboard-port {dashboard} --dashboard-agent-listen-port {agent}
        --dashboard-agent-grpc-port {agent_grpc} --metrics-export-port {metrics} --ray-client-server-port {client}
        --runtime-env-agent-port {env_agent} --temp-dir {ray_temp} --min-worker-port 0 --max-worker-port 0"""
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *words.split()], env=env, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 90
        while not _answers(url):
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(ray_temp, ignore_errors=True)


@pytest.fixture
def probe(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "readings.csv").write_text("1\n")
    return tmp_path


@pytest.mark.parametrize("status", [0, 3])
def test_the_exit_status_and_the_log_come_back(head, probe, status, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # the address given to submit takes precedence
    words = ["run", "--out", "s3://bucket/a run", str(status)]
    got = submit(
        head,
        words,
        working_dir=probe,
        env={"PROBE_SETTING": "x y"},
        program=("python", "-c", "import sys; sys.argv[-2:] = []; exec(open('probe.py').read())"),
    )
    shown = capsys.readouterr()
    assert got == status, shown
    assert "words ['run', '--out', 's3://bucket/a run'] setting x y\n" in shown.out
    assert "uploaded True\n" in shown.out
    assert "submitted raysubmit_" in shown.err
    assert TOKEN not in shown.out + shown.err
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"


def test_a_refusal_of_the_real_command_comes_back(head, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert submit(head, ["report", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "is not a run folder" in shown.out
    assert f"note: {tmp_path}: paths on the cluster's machines" in shown.err


def test_a_command_killed_by_a_signal_is_not_a_success(head, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    program = ("exec", "python", "-c", "import os; os.kill(os.getpid(), 9)")
    assert submit(head, ["run"], upload_code=False, program=program) == 128 + 9


def test_a_token_that_is_missing_or_wrong_is_told_in_one_line(head, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(ConfigError, match=r"refuses the token; set RAY_AUTH_TOKEN") as missing:
        submit(head, ["run"])
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-" + TOKEN)
    with pytest.raises(ConfigError, match=r"refuses the token; set RAY_AUTH_TOKEN") as wrong:
        submit(head, ["run"])
    assert "\n" not in str(missing.value) + str(wrong.value)


class _CutConnections:
    """Forwards one port and cuts every connection after ``seconds``, as an unreliable port-forward does."""

    def __init__(self, target, seconds):
        self.target = target
        self.seconds = seconds
        self.cuts = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.server.accept()
                far = socket.create_connection(self.target)
                threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near, far):
        until = time.monotonic() + self.seconds
        other = {near: far, far: near}
        with near, far, contextlib.suppress(OSError):
            while time.monotonic() < until:
                for ready in select.select([near, far], [], [], 0.1)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    other[ready].sendall(data)
            self.cuts += 1


def test_a_broken_connection_neither_ends_the_job_nor_repeats_its_log(head, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    forwarder = _CutConnections(("127.0.0.1", int(head.rsplit(":", 1)[1])), seconds=3.0)
    code = "import sys, time; [(print('line', i), time.sleep(0.5)) for i in range(20)]; sys.exit(2)"
    with forwarder.server:
        status = submit(forwarder.url, ["run"], upload_code=False, program=("python", "-c", code))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("line")]
    assert forwarder.cuts >= 1
    assert lines == [f"line {i}" for i in range(20)]
    assert status == 2
