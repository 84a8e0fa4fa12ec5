"""The run folder: its contents, which stages are done, and whether a command may resume it.

Everything but ``release/`` is confidential. ``manifest.json`` holds the end time, duration and summary of each finished
stage, the fingerprint of the input, and every audit that was made, because auditing until it passes is itself a leak.
"""

import datetime
import fcntl
import hashlib
import json
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ray_jobs.lease import leased
from ttsgan import recipes
from ttsgan.config import FREE_FIELDS, RunConfig
from ttsgan.data.readers import files_of_source
from ttsgan.data.storage import Location, one_line
from ttsgan.errors import DataError, NotFittedError

log = logging.getLogger(__name__)

STAGES = ("prepare", "train", "encode", "cluster", "generate", "evaluate", "audit", "report", "export")
"""All stages in order; each reads what earlier ones wrote."""
FREE_SECTIONS = ("runtime",)
"""Sections of the configuration that may change between two calls: where a run is made does not affect its results."""
WRITTEN_FIRST = ("README.txt", "config.json", "store", ".store.partial", "splits.parquet", "canaries")
"""Contents of a run folder, beside the manifest, before training."""
LOCK = ".lock"
"""Lock file of a run folder, held by the command that works there."""
CONFIDENTIAL = """This folder is CONFIDENTIAL, all of it but release/.

It holds real series (store/), who is in which half (splits.parquet), networks that have seen them (checkpoints/), their
latents and groups, and candidates that may not have passed the privacy audit (synthetic/). Hand out release/ only.
"""


@dataclass
class RunFolder:
    """A run folder and its manifest.

    Attributes
    ----------
    where : Location
    config : RunConfig
    manifest : dict
        Content of ``manifest.json``.
    replaces : bool
        Whether the folder still holds another run, which `start_over` removes once this run's series have been read.
    made : bool
        Whether `create` made the folder, because there was none.
    """

    where: Location
    config: RunConfig
    manifest: dict[str, Any]
    replaces: bool = False
    made: bool = False

    # ---- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, where: Location) -> "RunFolder":
        """Open an existing run folder.

        Raises
        ------
        NotFittedError
            If it is not a run folder.
        """
        if not is_run(where):
            raise NotFittedError(
                f"{where} is not a run folder (it has no manifest.json of a run); make one with: ttsgan run"
            )
        config = recipes.from_dict((where / "config.json").read_json())
        return cls(where, config, (where / "manifest.json").read_json())

    @classmethod
    def create(cls, where: Location, config: RunConfig, fresh: bool) -> "RunFolder":
        """Make a run folder, or open an existing one that was made from the same data and configuration.

        Raises
        ------
        DataError
            If ``where`` cannot be written, holds files that are not a run, or, without ``fresh``, holds another run.
        """
        made = not where.exists()
        where.check_writable()
        exists = is_run(where)
        if exists and not fresh:
            folder = cls.load(where)
            folder.go_on(config, reads_again=True)
            return folder
        others = where.list_all() if where.is_dir() and not exists else []
        if others:
            name = others[0].name
            raise DataError(f"{where} holds files that are not a run ({name}); choose another folder for --out")
        fingerprint = input_fingerprint(config)
        # Read the manifest only: the configuration of a run of an older version may be unreadable.
        old = (where / "manifest.json").read_json() if exists else {}
        same = old.get("input_fingerprint") == fingerprint
        manifest = {
            "schema_version": 1,
            "created": _now(),
            "input_fingerprint": fingerprint,
            "versions": versions(),
            "seed": config.seed,
            "stages": {},
            # Audits of the same households keep counting, however often the run is started over.
            "audit_attempts": old.get("audit_attempts", []) if same else [],
        }
        folder = cls(where, config, manifest, replaces=exists, made=made)
        if not exists:
            folder.start_over()
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the run folder: with a lock that the system releases when this process ends, or remotely by a lease.

        Raises
        ------
        DataError
            If another command holds the lock, or has worked here since the folder was opened, so that its results
            would be lost; or if the lock file cannot be written.
        """
        with _locked(self.where) if self.where.is_local else leased(self.where / LOCK):
            mine = json.loads(json.dumps(self.manifest))
            if not self.replaces and (self.where / "manifest.json").read_json() != mine:
                raise DataError(f"another command has worked on {self.where} meanwhile; run the same command again")
            yield

    def start_over(self) -> None:
        """Remove the run that is there, and write the files that every run folder has."""
        self.where.make_dir()
        (self.where / "README.txt").write_bytes(CONFIDENTIAL.encode())
        self._write_config()
        # Replace the manifest before anything is removed: the old one would list stages whose files are gone.
        self.save()
        for item in self.where.list() if self.replaces else ():
            if item.name not in ("README.txt", "config.json", "manifest.json"):
                item.remove()
        self.replaces = False

    def withdraw(self) -> None:
        """Remove what `start_over` and a failed stage prepare have written, and nothing else.

        Do nothing for a folder with earlier audits, because they count.
        """
        if self.manifest["audit_attempts"]:
            return
        for name in (*WRITTEN_FIRST, "manifest.json", LOCK):
            (self.where / name).remove()
        if self.made and not self.where.list_all():
            self.where.remove()

    def go_on(self, config: RunConfig, reads_again: bool) -> None:
        """Resume with a configuration that differs in free fields only; it is saved when a stage begins.

        Free are `FREE_SECTIONS`, `ttsgan.config.FREE_FIELDS`, and ``generate.series`` until stage generate is done.

        Raises
        ------
        DataError
            If any other field differs, or, with ``reads_again``, if the content of the sources has changed.
        """
        old, new = recipes.flat(self.config), recipes.flat(config)
        free = {name for name in new if name.split(".")[0] in FREE_SECTIONS or name in FREE_FIELDS}
        if not any(map(self.done, STAGES[STAGES.index("generate") :])):
            free.add("generate.series")
        different = [name for name in new if old.get(name) != new[name] and name not in free]
        for name, one, other in (
            ("data.source", self.config.data.source, config.data.source),
            ("data.holdout", (self.config.data.holdout,), (config.data.holdout,)),
        ):
            if name in different and _same_places(one, other):
                different.remove(name)
        if different:
            shown = ", ".join(f"{name} was {old.get(name)!r} and is now {new[name]!r}" for name in different[:4])
            shown += f", and {len(different) - 4} more" if len(different) > 4 else ""
            advice = (
                f"ttsgan run --out {self.where.quoted} goes on with its own settings; use --fresh to start over, or"
                " another folder for --out"
            )
            sections = {name.split(".")[0] for name in different}
            if different == ["generate.series"]:
                advice = f"ttsgan generate --out {self.where.quoted} --series N draws N without training again"
            elif sections <= {"evaluate", "audit"}:
                anew = [f"ttsgan {x} --out {self.where.quoted} --set {x}.FIELD=VALUE" for x in STAGES if x in sections]
                advice = f"ttsgan run --out {self.where.quoted} goes on with its own settings; without a new training, "
                advice += f"{' and '.join(anew)} {'changes' if len(anew) == 1 else 'change'} them"
            raise DataError(f"{self.where} was made with another configuration ({shown}); {advice}")
        if reads_again and input_fingerprint(config) != self.manifest["input_fingerprint"]:
            source = ", ".join(config.data.source)
            raise DataError(
                f"{self.where} was made from other data: the content of {source} has changed; "
                "use --fresh to start over, or another folder for --out"
            )
        self.config = config

    # ---- stages ----------------------------------------------------------------------------------------------------

    def _write_config(self) -> None:
        (self.where / "config.json").write_json(recipes.to_dict(self.config))

    def save(self) -> None:
        """Write the manifest."""
        (self.where / "manifest.json").write_json(self.manifest)

    def done(self, stage: str) -> bool:
        """Return whether ``stage`` is done."""
        return stage in self.manifest["stages"]

    def summary(self, stage: str) -> dict[str, Any]:
        """Return the summary of a finished stage."""
        return self.manifest["stages"][stage]["summary"]

    def require(self, stage: str, wanted_by: str) -> None:
        """Raise `NotFittedError` if ``stage``, which ``wanted_by`` needs, is not done."""
        if not self.done(stage):
            raise NotFittedError(
                f"{wanted_by} needs the stage {stage}, which {self.where} has not finished; "
                f"run: ttsgan {'run' if stage == 'prepare' else stage} --out {self.where.quoted}"
            )

    def begin(self, stage: str) -> None:
        """Mark ``stage`` and the stages after it as not done, because their results are about to be out of date.

        Also save the current configuration, which may have other settings for this stage, and remove the release.
        Stage report invalidates only itself: it shows results of other stages, and a release has its own report.
        Nothing is done while another run is still to be replaced.
        """
        if self.replaces:
            return
        for later in STAGES[STAGES.index(stage) :] if stage != "report" else ("report",):
            self.manifest["stages"].pop(later, None)
        if stage != "report":
            (self.where / "release").remove()
        self._write_config()
        self.save()

    def finish(self, stage: str, seconds: float, summary: dict[str, Any]) -> None:
        """Record that ``stage`` is done."""
        record = {"finished": _now(), "seconds": round(seconds, 1), "summary": summary}
        self.manifest["stages"][stage] = record
        self.save()


def is_run(where: Location) -> bool:
    """Return whether a folder holds a run; another program's ``manifest.json`` does not count."""
    manifest = where / "manifest.json"
    if not manifest.is_file():
        return False
    said = manifest.read_json()
    return isinstance(said, dict) and "input_fingerprint" in said and "stages" in said


def _same_places(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether two lists name the same sources, as ``a.csv`` and ``./a.csv`` do."""
    return [*map(Location.parse, one)] == [*map(Location.parse, other)]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    names = ("ttsgan", "torch", "ray", "numpy", "scipy", "scikit-learn", "pyarrow")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        # The package also runs from a checkout on the path of a cluster's machines, without being installed.
        return "not installed"


def input_fingerprint(config: RunConfig) -> str:
    """Return a hash of all sources: of the bytes of local files, of path, size and change time elsewhere."""
    digest = hashlib.sha256()
    if config.data.is_sample:
        sample = recipes.to_dict(config)["sample"]
        digest.update(repr(sorted(sample.items())).encode())
    sources = [] if config.data.is_sample else list(config.data.source)
    if config.data.holdout_fraction() is None:
        sources.append(config.data.holdout)
    for text in sources:
        place = Location.parse(text)
        if not place.exists():
            raise DataError(f"{place} does not exist; check the path")
        folder = place.is_dir()
        for part in files_of_source(place)[0]:
            # Hash the names of files in a folder too: a name may be the id of the meter.
            digest.update((part.name.encode() if folder else b"") + _content(part))
    return digest.hexdigest()


def _content(part: Location) -> bytes:
    if not part.is_local:
        info = part.filesystem.get_file_info(part.path)
        return f"{part.path} {info.size} {info.mtime_ns}".encode()
    if part.is_dir():
        return part.path.encode()
    with part.local_path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextmanager
def _locked(where: Location) -> Iterator[None]:
    """Lock a local folder."""
    try:
        file = (where / LOCK).local_path.open("a")
    except OSError as error:
        raise DataError(f"{where} cannot be written to ({one_line(error)}); commands write there") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{where} is worked on by another command; wait for it, or stop it") from error
        except OSError as error:
            log.warning("%s cannot be locked (%s): do not start two commands on it", where, one_line(error))
        yield
