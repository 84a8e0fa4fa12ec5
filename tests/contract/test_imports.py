"""Imports go downwards only, and the library stands without Ray."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ttsgan

ROOT = Path(ttsgan.__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.walk_packages(ttsgan.__path__, "ttsgan."))


def test_contracts_hold():
    # in a process of its own: the linter switches off every logger that it finds
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_library_never_imports_ray():
    """Every module of the library, in a fresh process: no module of Ray or of the drivers comes along."""
    code = (
        "import importlib, sys\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'ray', 'ray_jobs', 'tyro', 'optuna'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_command_is_refused_before_anything_heavy_is_imported(tmp_path):
    """These libraries take eight seconds: a mistyped path is told in one."""
    code = (
        "import sys\nfrom ray_jobs.cli import main\n"
        f"status = main(['run', '--data', '/nowhere/meters.csv', '--out', {str(tmp_path / 'run')!r}])\n"
        "print(status, sorted(set(sys.modules) & {'ray', 'torch', 'sklearn', 'scipy', 'pandas', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 []"
    assert "/nowhere/meters.csv does not exist" in done.stderr


@pytest.mark.parametrize("stage", ["encode", "generate"])
def test_workers_that_use_a_model_import_nothing_that_trains_or_judges_one(stage):
    """Every worker starts a process of its own, and these libraries take four seconds in each."""
    code = (
        f"import sys\nimport ray_jobs.{stage}\n"
        "print(sorted(set(sys.modules) & {'sklearn', 'scipy.stats', 'matplotlib', 'tensorboard'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_something_to_import():
    assert {"ttsgan.api", "ttsgan.training.loop", "ttsgan.models.days", "ttsgan.data.scaling"} <= set(MODULES)


@pytest.mark.parametrize("package", ["ttsgan", "ray_jobs"])
def test_files_stay_readable(package):
    """No file above 430 lines, and each says at its top what it is."""
    for file in (ROOT / package).rglob("*.py"):
        text = file.read_text()
        assert text.count("\n") <= 430, file
        assert text.startswith('"""'), file
