"""Run a ``ttsgan`` command on a Ray cluster: upload the code, submit the job, show its log, return its exit status.

Everything goes through the cluster's Jobs API (its dashboard port). So no Ray needs to run on this machine, and a lost
connection does not end the job.
"""

import asyncio
import logging
import os
import re
import shlex
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from rich.console import Console

import ray_jobs
import ttsgan
from ray_jobs.failures import ClusterError
from ttsgan.data.storage import one_line
from ttsgan.errors import ConfigError

logger = logging.getLogger(__name__)

PROGRAM = ("python", "-m", "ray_jobs.cli")
# Commands that start no Ray, and so take no --address.
WITHOUT_RAY = frozenset({"prepare"})
# The dashboard refuses larger requests with status 413.
MAX_UPLOAD_BYTES = 100 * 2**20
# Excluded only at the top of the uploaded folder: further down, `data` may be a Python package.
TOP_LEVEL_EXCLUDES = frozenset({"build", "data", "dist", "runs", "venv"})
PATH_OPTIONS = frozenset({"--config", "--data", "--holdout", "--out", "--source", "--synthetic", "--train"})
CONNECT_SECONDS = 10.0
POLL_SECONDS = 2.0
# How long the cluster may be unreachable (a restarted port-forward, a busy head) while the log is followed.
PATIENCE_SECONDS = 120.0
INTERRUPTED = 130
_ADDRESS = re.compile(r"(?:(https?)://)?([\w.-]+|\[[0-9a-fA-F:]+\])(?::(\d{1,5}))?/?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def submit(
    address: str,
    entrypoint: Sequence[str],
    *,
    working_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    follow: bool = True,
    console: Console | None = None,
    upload_code: bool = True,
    program: Sequence[str] = PROGRAM,
) -> int:
    """Run a command as a job of a Ray cluster.

    The job's command line is ``program``, the words of ``entrypoint``, and ``--address auto`` (except for commands in
    `WITHOUT_RAY`), so that it joins the cluster that it runs on. The job's log is copied to stdout as it is written.
    Ctrl-C stops following the log, not the job.

    Parameters
    ----------
    address : str
        Address of the dashboard: ``http://HOST:8265`` or ``https://...``; a plain ``HOST:PORT`` means http. It takes
        precedence over the variables ``RAY_ADDRESS`` and ``RAY_API_SERVER_ADDRESS``.
    entrypoint : sequence of str
        The words after ``ttsgan``, such as ``run --data s3://... --out s3://...``. Paths in them are the cluster's.
    working_dir : Path or None
        Folder to upload and start the command in, without hidden files, Python byte code, and the folders of
        `TOP_LEVEL_EXCLUDES`. None: upload only the code.
    env : mapping of str to str, or None
        Environment variables of the job and its workers. Anyone who can read the cluster's jobs can read them.
    follow : bool
        Show the log and wait for the end; otherwise return 0 as soon as the cluster has accepted the job.
    console : rich.console.Console or None
        Where notes about the submission are printed; None: stderr.
    upload_code : bool
        Upload the source of this package, which takes precedence over the one in the cluster's image. False: use the
        image's.
    program : sequence of str
        The words that start the command on the cluster.

    Returns
    -------
    int
        Exit status of the command (0, 1, 2 or 3 for ``ttsgan``); 128 + the number of the signal that killed it; 1 if
        the job was stopped or never started; 130 after Ctrl-C.

    Raises
    ------
    ConfigError
        If the address is not http(s), a word contains credentials, or more than `MAX_UPLOAD_BYTES` would be uploaded.
    ClusterError
        If the cluster cannot be reached, refuses the token or the job, or is lost for more than `PATIENCE_SECONDS`.
    """
    say = partial((console or Console(stderr=True)).print, markup=False, highlight=False, soft_wrap=True)
    url = normal_address(address)
    command = command_line(entrypoint, program)
    for note in notes(url, entrypoint, working_dir):
        say(note)
    with tempfile.TemporaryDirectory(prefix="ttsgan-upload-") as scratch:
        runtime_env = make_runtime_env(Path(scratch), working_dir, env, upload_code)
        client = _connect(url)
        with _told(url):
            job = client.submit_job(entrypoint=command, runtime_env=runtime_env)
    by_hand = f"--address {url} {job}"
    say(f"submitted {job}: {command}")
    if not follow:
        say(f"log: ray job logs --follow {by_hand}   stop: ray job stop {by_hand}")
        return 0
    try:
        details = _follow(client, job, url)
    except KeyboardInterrupt:
        say(f"{job} goes on; stop it with: ray job stop {by_hand}")
        return INTERRUPTED
    if details.status != JobStatus.SUCCEEDED and details.driver_exit_code is None:
        say(f"{job} {details.status.value.lower()}: {one_line(details.message or 'no reason given')}")
    return exit_status(details)


def normal_address(address: str) -> str:
    """Return the address as ``http(s)://host:port``; raise `ConfigError` for ``auto``, ``ray://...`` or a path."""
    match = _ADDRESS.fullmatch(address)
    if not match or address == "auto":
        raise ConfigError(
            f"--address {address!r} is not the address of a Ray dashboard; use http://HOST:8265 "
            "(ray:// and port 6379 are other services of the same machine)"
        )
    scheme, host, port = match.groups()
    return f"{scheme or 'http'}://{host}:{port or (443 if scheme == 'https' else 8265)}"


def command_line(entrypoint: Sequence[str], program: Sequence[str] = PROGRAM) -> str:
    """Return the shell command of the job, each word quoted; a leading ``ttsgan`` is dropped.

    Raises
    ------
    ConfigError
        If there are no words, the command is ``submit`` itself, or a word is ``--address`` or a URI with credentials.
    """
    words = list(entrypoint)
    if words[:1] == ["ttsgan"]:
        del words[0]
    if not words:
        raise ConfigError(
            "submit needs a command after --: ttsgan submit --address URL -- run --data s3://... --out s3://..."
        )
    if words[0] == "submit":
        raise ConfigError("the command after -- is 'submit' itself; give the command to run there, such as run")
    if any(word.split("=", 1)[0] == "--address" for word in words):
        raise ConfigError("leave --address out of the command after --: the job joins the cluster that it runs on")
    for word in words:
        if "://" in word and "@" in word.split("://", 1)[1].split("/", 1)[0]:
            raise ConfigError(
                f"{word.split('://', 1)[0]}://...@... carries credentials, which everybody who sees the cluster's jobs "
                "could read; give the cluster's machines a role or a secret (cluster/README.md)"
            )
    joins = () if words[0] in WITHOUT_RAY else ("--address", "auto")
    return shlex.join([*program, *words, *joins])


def notes(url: str, entrypoint: Sequence[str], working_dir: Path | None = None) -> list[str]:
    """Return notes for the user before the job starts, one line each; ``url`` is from `normal_address`."""
    lines = []
    local = [path for path in _paths(entrypoint) if _is_local(path, working_dir)]
    if local:
        lines.append(
            f"note: {', '.join(local)}: paths on the cluster's machines, not on this one; files that shall outlive the "
            "cluster, or that several machines read, belong on s3://, gs:// or a shared folder"
        )
    parts = urlsplit(url)
    if _token() and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        lines.append(f"note: the token travels unencrypted to {parts.hostname}; use https or a port-forward")
    return lines


def make_runtime_env(
    scratch: Path, working_dir: Path | None, env: Mapping[str, str] | None, upload_code: bool
) -> dict[str, object]:
    """Return the job's runtime environment; ``working_dir``, if given, is packed into the folder ``scratch``."""
    result: dict[str, object] = {}
    if upload_code:
        result["py_modules"] = [str(Path(module.__file__).parent) for module in (ttsgan, ray_jobs)]
        result["excludes"] = ["__pycache__", "*.pyc"]
    if working_dir is not None:
        result["working_dir"] = str(pack(Path(working_dir), scratch))
    if env:
        result["env_vars"] = dict(env)
    return result


def pack(folder: Path, scratch: Path) -> Path:
    """Pack the files of a folder into one zip, the same bytes for the same files, and return its path.

    Ray does not pack it, because its exclusion patterns would apply to the code (`ttsgan/data`) as well. Raise
    `ConfigError` if the folder does not exist, has no files, or holds more than `MAX_UPLOAD_BYTES`.
    """
    if not folder.is_dir():
        raise ConfigError(f"working directory {folder} is not a folder; name the folder whose files the job needs")
    files = sorted(_files(folder))
    sizes = {path: path.stat().st_size for path in files}
    total = sum(sizes.values())
    if not files:
        raise ConfigError(f"working directory {folder} has no files to upload; leave it out")
    if total > MAX_UPLOAD_BYTES:
        largest = sorted(files, key=lambda path: -sizes[path])[:3]
        listed = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise ConfigError(
            f"working directory {folder} holds {total / 2**20:.0f} MiB, over the {MAX_UPLOAD_BYTES // 2**20} MiB that "
            f"a cluster takes; largest: {listed}; put data on s3:// or a shared folder, or name a smaller folder"
        )
    packed = scratch / "working_dir.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            # A fixed date: the cluster identifies an upload by its bytes and accepts each only once.
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = (path.stat().st_mode & 0o777) << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed


def exit_status(details: JobDetails) -> int:
    """Return the exit status of the command of a job that has ended.

    Ray keeps the exit code of the process that it started (``driver_exit_code``) beside a status that only tells
    success from failure. A negative code is the signal that ended the process; it becomes 128 + signal. A job that
    never started (no code) or was stopped counts as 1.
    """
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = details.driver_exit_code
    if not code or details.status == JobStatus.STOPPED:
        return 1
    return 128 - code if code < 0 else code


def _files(folder: Path) -> Iterator[Path]:
    """Yield the regular files of a folder that are uploaded."""
    for root, folders, names in os.walk(folder):
        top = Path(root) == folder
        folders[:] = [name for name in folders if not _left_out(name) and not (top and name in TOP_LEVEL_EXCLUDES)]
        for name in names:
            path = Path(root) / name
            if not _left_out(name) and path.is_file():
                yield path


def _left_out(name: str) -> bool:
    """Return whether a file or folder of this name is not uploaded: hidden (.git, .env, caches), or byte code."""
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".egg-info"))


def _paths(words: Sequence[str]) -> Iterator[str]:
    """Yield the values of the options that name files."""
    option = ""
    for word in words:
        if word.startswith("--"):
            option, _, value = word.partition("=")
            if option in PATH_OPTIONS and value:
                yield value
        elif option in PATH_OPTIONS:
            yield word


def _is_local(path: str, working_dir: Path | None) -> bool:
    """Return whether a value is a path on one machine's disk that is not uploaded with the job."""
    if path == "sample" or ("://" in path and not path.startswith("file://")):
        return False
    try:
        float(path)
    except ValueError:
        return working_dir is None or Path(path).is_absolute() or not (Path(working_dir) / path).exists()
    return False


def _token() -> str | None:
    """Return the cluster's token from the environment, or None if it has none; Ray's own rules then apply."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        return None
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"RAY_AUTH_TOKEN_PATH={path} cannot be read ({one_line(error)}); name a file with the token"
        ) from error


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn errors of the client into a `ClusterError` that says in one line what to do."""
    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            f"the cluster at {url} refuses the token; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it "
            "(KubeRay keeps it in the Secret named like the RayCluster, key auth_token)"
        ) from error
    except OSError as error:  # requests and urllib derive theirs from it
        raise ClusterError(
            f"no Ray dashboard answers at {url} ({one_line(error, 120)}); on Kubernetes run: kubectl port-forward "
            "service/NAME-head-svc 8265:8265, and submit to http://127.0.0.1:8265"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise ClusterError(f"the cluster at {url} did not take the job: {one_line(error)}") from error


def _connect(url: str) -> JobSubmissionClient:
    """Return a client for the cluster, after a first request with a timeout."""
    token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    with _told(url), _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        try:
            urllib.request.urlopen(f"{url}/api/version", timeout=CONNECT_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # the dashboard answers, if only to ask for a token
        except OSError as error:
            # The client checks certificates itself, with its own list of authorities.
            if not isinstance(getattr(error, "reason", None), ssl.SSLError):
                raise
        return JobSubmissionClient(url, headers=headers)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide environment variables that Ray would prefer to the address it is given."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _follow(client: JobSubmissionClient, job: str, url: str) -> JobDetails:
    """Copy the job's log to stdout until the job has ended, and return how it ended.

    The end of the log is not the end of the job: the connection may break, and each new one starts the log from its
    beginning. So the job's status decides when to return, and text that was shown already is skipped.
    """
    log = _Log(client, job)
    last_heard = time.monotonic()
    while True:
        try:
            ended_before = client.get_job_info(job).status.is_terminal()
            complete = log.copy()
            details = client.get_job_info(job)
        except (OSError, RuntimeError, AuthenticationError) as error:
            if time.monotonic() - last_heard > PATIENCE_SECONDS:
                raise ClusterError(
                    f"lost the cluster at {url} for {PATIENCE_SECONDS:.0f} s ({one_line(error, 120)}); the job may "
                    f"still run: ray job logs --follow --address {url} {job}"
                ) from error
        else:
            last_heard = time.monotonic()
            if details.status.is_terminal() and (complete or ended_before):
                return details
        time.sleep(POLL_SECONDS)


class _Log:
    """Copies a job's log to stdout; ``shown`` is the number of characters that were written."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self.client = client
        self.job = job
        self.shown = 0

    def copy(self) -> bool:
        """Write new text until the cluster closes the log; return False if the connection broke before that."""
        try:
            asyncio.run(self._copy())
        except Exception as error:  # a broken websocket raises many types, and `_follow` asks for the status anyway
            logger.debug("log of %s broke off: %s", self.job, error)
            return False
        return True

    async def _copy(self) -> None:
        position = 0
        async for text in self.client.tail_job_logs(self.job):
            fresh = text[max(0, self.shown - position) :]
            position += len(text)
            if fresh:
                self.shown = position
                sys.stdout.write(fresh)
                sys.stdout.flush()
