"""Storage of the files of a run: a local folder, or any file system that pyarrow reaches by a URI.

A run reads and writes everything through `Location`, so that run folders on a laptop and in a bucket behave alike: a
file is written completely or not at all, a folder is replaced as a whole, and an error is one line with the place.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import pyarrow as pa
from pyarrow import fs

from ttsgan.errors import DataError

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
MIN_FREE_BYTES = 200_000_000
CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 30.0
# Linux reports EFBIG if a file exceeds the size limit of the process: to the user, a kind of full disk.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def _told(action: str, place: object) -> Iterator[None]:
    """Convert an error of the file system to a `DataError` that names the place."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{place} does not exist: cannot {action} it; check the path") from error
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None) in _FULL:
            message = f"no space left on device: cannot {action} {place}; free some space or choose another folder"
        else:
            reason = getattr(error, "strerror", None) or one_line(error)
            message = f"cannot {action} {place}: {reason}"
        raise DataError(message) from error


def one_line(error: object, limit: int = 240) -> str:
    """Return the text of an error on one line, cut to ``limit`` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True)
class Location:
    """A file or folder: a pyarrow file system and a path on it. It need not exist.

    It can be pickled, compares equal by address, and is joined with ``/`` like a `pathlib.Path`.
    """

    filesystem: fs.FileSystem = field(compare=False, repr=False)
    path: str
    scheme: str = ""
    userinfo: str = field(default="", repr=False)
    query: str = ""
    host: str = ""
    """Host of the URI: a bucket, or the name of an account or a name node, which is not part of the path."""
    root: str = ""
    """Leading part of ``path`` that comes from the user and host of the URI."""

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Return the location that a path or a URI names, after one check of remote storage.

        Parameters
        ----------
        text : str
            Local path (``~`` allowed) or a URI with one of `SCHEMES`. S3 options follow a ``?``: ``region``,
            ``endpoint_override``, ``scheme``. Credentials come from the environment or from the URI; `__str__` omits
            them.

        Raises
        ------
        DataError
            Empty text, an unknown scheme, or a storage that does not answer within seconds.
        """
        if not text.strip():
            raise DataError("a path is empty; give a local path or a URI such as s3://bucket/folder")
        if "://" not in text:
            return cls(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text)))
        parts = urlsplit(text)
        scheme = parts.scheme.lower()
        if scheme == "file":
            return cls(fs.LocalFileSystem(), os.path.abspath(unquote(parts.path)))
        userinfo, _, host = parts.netloc.rpartition("@")
        shown = f"{scheme}://{host}{parts.path}"
        if scheme not in SCHEMES:
            allowed = ", ".join(f"{name}://" for name in SCHEMES)
            raise DataError(f"{shown}: storage {scheme}:// is not known; allowed: a local path, {allowed}")
        try:
            filesystem, path = _connect(scheme, text, parts, userinfo, host)
            filesystem.get_file_info(path)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise DataError(
                f"cannot reach the storage {shown}: {one_line(error)}; check address, network and credentials"
            ) from error
        path = path.rstrip("/")
        root = path.removesuffix(unquote(parts.path).rstrip("/"))
        return cls(filesystem, path, scheme, userinfo, parts.query, host, root)

    def __truediv__(self, name: str) -> "Location":
        """Return the location ``name`` inside this folder."""
        return dataclasses.replace(self, path=f"{self.path}/{name}")

    def __str__(self) -> str:
        """Return the path or the URI, without credentials: for messages and for files that others read."""
        if self.is_local:
            return self.path
        query = f"?{self.query}" if self.query else ""
        path = f"{self.host}{quote(self.path.removeprefix(self.root))}"
        return f"{self.scheme or self.filesystem.type_name}://{path}{query}"

    @property
    def quoted(self) -> str:
        """The text of `__str__`, quoted as one word of a command line."""
        return shlex.quote(str(self))

    @property
    def uri(self) -> str:
        """The text from which `parse` makes this location again, credentials included: never write it to a file."""
        text = str(self)
        return text.replace("://", f"://{self.userinfo}@", 1) if self.userinfo else text

    @property
    def is_local(self) -> bool:
        """Whether this is a path of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def local_path(self) -> Path:
        """The path of a local location; `DataError` for another."""
        if not self.is_local:
            raise DataError(f"{self} is not on this machine; a local path is needed here")
        return Path(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> "Location":
        """The folder that holds this location."""
        above = self.path.rpartition("/")[0] or ("/" if self.is_local else "")
        return dataclasses.replace(self, path=above)

    def _info(self) -> fs.FileInfo:
        try:
            return self.filesystem.get_file_info(self.path)
        except NotADirectoryError:
            return fs.FileInfo(self.path, fs.FileType.NotFound)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot look at {self}: {one_line(error)}") from error

    def exists(self) -> bool:
        """Return whether a file or folder exists here."""
        return self._info().type != fs.FileType.NotFound

    def is_dir(self) -> bool:
        """Return whether this is an existing folder."""
        return self._info().type == fs.FileType.Directory

    def is_file(self) -> bool:
        """Return whether this is an existing file."""
        return self._info().is_file

    def size(self) -> int:
        """Return the size of the file in bytes (0 for a folder); `DataError` if it does not exist."""
        info = self._info()
        if info.type == fs.FileType.NotFound:
            raise DataError(f"{self} does not exist; check the path")
        return info.size or 0

    def list_all(self) -> list["Location"]:
        """Return everything in this folder, hidden or not, sorted by name."""
        with _told("list", self):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return [self / name for name in sorted(info.base_name for info in found)]

    def list(self, suffix: str = "") -> list["Location"]:
        """Return the contents of this folder, sorted by name, without hidden names (temporaries) and other suffixes.

        An absent folder holds nothing.
        """
        return [item for item in self.list_all() if item.name.endswith(suffix) and not item.name.startswith(".")]

    def open_input(self) -> pa.NativeFile:
        """Return the file here, opened for random-access reading; `DataError` if there is none."""
        with _told("read", self):
            return self.filesystem.open_input_file(self.path)

    def read_bytes(self) -> bytes:
        """Return all bytes of the file here."""
        with _told("read", self), self.filesystem.open_input_file(self.path) as file:
            return file.read()

    def read_json(self) -> Any:
        """Return the object in the JSON file here; `DataError` if it is cut short or not JSON."""
        data = self.read_bytes()
        try:
            return json.loads(data)
        except ValueError as error:
            what = "is empty" if not data else f"is not valid JSON ({one_line(error)})"
            raise DataError(f"{self} {what}; it was cut short or is not a file of this program") from error

    def write_bytes(self, data: bytes | memoryview | pa.Buffer) -> None:
        """Write a file completely or not at all, replacing an old one; create missing folders.

        Raises
        ------
        DataError
            No space left, or a place that cannot be written to. An old file is then unchanged.
        """
        with _told("write", self):
            if self.is_local:
                self._write_local(data)
                return
            try:
                self._put(data)
            except FileNotFoundError:  # a file system with real folders, unlike an object store
                self.filesystem.create_dir(self.parent.path, recursive=True)
                self._put(data)

    def _put(self, data: bytes | memoryview | pa.Buffer) -> None:
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(data)

    def _write_local(self, data: bytes | memoryview | pa.Buffer) -> None:
        target = self.local_path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}"
        try:
            with open(partial, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def write_json(self, value: Any) -> None:
        """Write an object as indented JSON, keys in their order; `ValueError` on NaN and infinity."""
        self.write_bytes((json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())

    def remove(self) -> None:
        """Remove the file or the whole folder here, if there is one."""
        kind = self._info().type
        with _told("remove", self), contextlib.suppress(FileNotFoundError):
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif kind != fs.FileType.NotFound:
                self.filesystem.delete_file(self.path)

    def make_dir(self) -> None:
        """Create this folder and those above it, if they do not exist."""
        with _told("make the folder", self):
            self.filesystem.create_dir(self.path, recursive=True)

    @contextlib.contextmanager
    def replace_dir(self) -> Iterator["Location"]:
        """Yield an empty folder beside this one, which replaces this one if the block ends without an exception.

        After an exception, the new folder is removed and the old one is unchanged. Folders that a killed process left
        behind are removed, or renamed back, at the next call. Two processes must not replace one folder at the same
        time.

        Object stores cannot rename a folder, so the old parts are deleted and the new ones copied one by one. If that
        fails, nothing remains under this name; the complete new parts remain in the folder beside it, which the error
        names.
        """
        partial, old = self.parent / f".{self.name}.partial", self.parent / f".{self.name}.old"
        if self.is_file():
            raise DataError(f"{self} is a file; a folder is to be written there: choose another name")
        partial.remove()
        if old.exists():
            if self.exists():
                old.remove()
            else:
                self._rename(old, self)
        partial.make_dir()
        try:
            yield partial
            if self.is_local:
                if self.exists():
                    self._rename(self, old)
                self._rename(partial, self)
                _sync_folder(self.local_path.parent)
        except BaseException:
            partial.remove()
            if old.exists() and not self.exists():
                self._rename(old, self)
            raise
        if self.is_local:
            old.remove()
        else:
            self.remove()
            self._move_parts(partial)

    @staticmethod
    def _rename(source: "Location", target: "Location") -> None:
        with _told("rename", source):
            os.rename(source.path, target.path)

    def _move_parts(self, partial: "Location") -> None:
        try:
            with _told("move", partial):
                self.filesystem.create_dir(self.path, recursive=True)
                for info in self.filesystem.get_file_info(fs.FileSelector(partial.path, recursive=True)):
                    target = self.path + info.path.removeprefix(partial.path)
                    if info.type == fs.FileType.Directory:
                        self.filesystem.create_dir(target, recursive=True)
                    else:
                        self.filesystem.copy_file(info.path, target)
        except BaseException as error:
            # An incomplete set of parts would look like a complete one.
            self.remove()
            if isinstance(error, DataError):
                raise DataError(f"{error}; {self} is gone, and what was to be there is whole in {partial}") from error
            raise
        partial.remove()

    def check_writable(self, min_free: int = MIN_FREE_BYTES) -> None:
        """Refuse a place where a run folder cannot be written, before any work is done.

        Parameters
        ----------
        min_free : int
            Bytes that must be free on a local disk.

        Raises
        ------
        DataError
            A file exists here or as a parent folder, the place is read-only, or less than ``min_free`` bytes are free.
        """
        if self.is_file():
            raise DataError(f"{self} is a file; a folder is needed there: choose another name or remove it")
        if not self.is_local:
            probe = self / f".write-check-{uuid.uuid4().hex[:8]}"
            probe.write_bytes(b"ok")
            probe.remove()
            return
        folder = self.local_path
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise DataError(f"{self} cannot be made: {folder} is a file; choose another folder")
        probe = folder / f".write-check-{uuid.uuid4().hex[:8]}"
        with _told("write to", folder):
            probe.touch()
            probe.unlink()
        free = shutil.disk_usage(folder).free
        if free < min_free:
            raise DataError(
                f"no space left on device for {self}: {free / 1e6:.0f} MB are free, {min_free / 1e6:.0f} MB or"
                " more are needed; free some space or choose another folder"
            )


def _sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _connect(scheme: str, text: str, parts: Any, userinfo: str, host: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a remote URI, with short timeouts, and the path on it."""
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if scheme in ("gs", "gcs"):
        options.setdefault("retry_limit_seconds", "8")
        return fs.FileSystem.from_uri(f"{scheme}://{parts.netloc}{parts.path}?{urlencode(options, safe=':')}")
    if scheme != "s3":
        return fs.FileSystem.from_uri(text)
    allowed = ("region", "endpoint_override", "scheme", "allow_bucket_creation", "allow_bucket_deletion")
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"option {unknown[0]!r} is not known; allowed: {', '.join(allowed)}")
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # AWS_ENDPOINT_URL, common to AWS tools, holds a whole URL; pyarrow takes scheme and host separately.
    env_scheme, _, env_host = os.environ.get("AWS_ENDPOINT_URL", "").rpartition("://")
    endpoint = options.get("endpoint_override") or env_host.rstrip("/") or None
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(host)
    access_key, _, secret_key = userinfo.partition(":")
    filesystem = fs.S3FileSystem(
        access_key=unquote(access_key) or None,
        secret_key=unquote(secret_key) or None,
        region=region,
        endpoint_override=endpoint,
        scheme=options.get("scheme") or env_scheme or None,
        allow_bucket_creation=options.get("allow_bucket_creation") == "true",
        allow_bucket_deletion=options.get("allow_bucket_deletion") == "true",
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
    )
    return filesystem, host + unquote(parts.path)
