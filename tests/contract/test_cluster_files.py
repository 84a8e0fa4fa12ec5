"""The files of cluster/ say what the machines accept, and what this project's commands and versions are.

The schemas are those of KubeRay 1.7 and of the installed Ray. KubeRay's own rules between fields (CEL) are not in them.
"""

import copy
import functools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from ray_jobs import cli
from ttsgan.recipes import override, quick

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = Path(__file__).parent / "schemas"
MANIFESTS = {"rayjob": CLUSTER / "kuberay" / "rayjob.yaml", "raycluster": CLUSTER / "kuberay" / "raycluster.yaml"}
COMMAND = re.compile(r"(?:(?<![/\w-])ttsgan|python -m ray_jobs\.cli|sbatch cluster/slurm\.sh) +([a-z]+)\b(?!\.)")


def _load(path):
    return yaml.safe_load(path.read_text())


def _validator(kind):
    schema = json.loads((SCHEMAS / f"{kind}-v1.schema.json").read_text())
    return jsonschema.Draft202012Validator(schema)


def _cluster_spec(kind):
    spec = _load(MANIFESTS[kind])["spec"]
    return spec["rayClusterSpec"] if kind == "rayjob" else spec


def _templates(kind):
    spec = _cluster_spec(kind)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def _changed(manifest, path, value):
    """Return a copy with the value at a path replaced, or with the key added."""
    changed = copy.deepcopy(manifest)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_are_valid(kind):
    manifest = _load(MANIFESTS[kind])
    assert manifest["apiVersion"] == "ray.io/v1"
    assert manifest["kind"].lower() == kind
    _validator(kind).validate(manifest)


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("rayjob", ("spec", "backoffLimit"), "1", "'1' is not of type 'integer'"),
        ("rayjob", ("spec", "submissionMode"), 1, "1 is not of type 'string'"),
        ("rayjob", ("spec", "activeDeadlineSecond"), 60, "'activeDeadlineSecond' was unexpected"),
        ("rayjob", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplica"), 0, "'minReplica' was unexpected"),
        ("raycluster", ("spec", "workerGroupSpecs", 0, "minReplica"), 0, "'minReplica' was unexpected"),
        ("raycluster", ("spec", "workerGroupSpecs", 0, "maxReplicas"), "4", "'4' is not of type 'integer'"),
        ("raycluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        ("raycluster", ("spec", "authOptions", "mode"), "tokens", "'tokens' is not one of"),
        ("raycluster", ("spec", "headGroupSpec", "template", "spec", "container"), [], "'container' was unexpected"),
    ],
)
def test_mistakes_in_manifests_are_caught(kind, path, value, message):
    broken = _changed(_load(MANIFESTS[kind]), path, value)
    errors = list(_validator(kind).iter_errors(broken))
    assert [error.message for error in errors if message in error.message], errors


@pytest.mark.parametrize("kind", MANIFESTS)
def test_clusters_are_authenticated_bounded_and_without_root(kind):
    spec = _cluster_spec(kind)
    assert spec["authOptions"]["mode"] == "token"
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [group] = spec["workerGroupSpecs"]
    assert group["minReplicas"] == 0
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] == 4
    for pod in _templates(kind):
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        [shm] = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
        [volume] = [volume for volume in pod["volumes"] if volume["name"] == shm]
        assert volume["emptyDir"]["medium"] == "Memory"
    worker = group["template"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert worker["tolerations"]
    assert "nvidia.com/gpu" not in _templates(kind)[0]["containers"][0]["resources"]["limits"]


def test_the_job_ends_and_takes_its_cluster_with_it():
    spec = _load(MANIFESTS["rayjob"])["spec"]
    assert spec["submissionMode"] == "HTTPMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert "deletionStrategy" not in spec  # KubeRay takes one of the two ways only


def test_the_job_asks_for_what_its_workers_have(monkeypatch):
    words = shlex.split(_load(MANIFESTS["rayjob"])["spec"]["entrypoint"])
    assert words[0] == "ttsgan"
    taken = []

    @functools.wraps(cli.run)
    def take(general, data, accept_unproven=False):
        taken.append(general)
        return 0

    monkeypatch.setitem(cli.COMMANDS, "run", take)
    assert cli.main(words[1:]) == 0
    [options] = taken
    assert options.address == "auto"
    assert all(place.startswith("s3://") for place in (*options.data, options.out))
    runtime = override(quick(), options.set).runtime
    [group] = _cluster_spec("rayjob")["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert runtime.num_workers == group["replicas"]
    assert runtime.cpus_per_worker < int(limits["cpu"])  # one stays for Ray and the readers
    assert runtime.use_gpu


def test_both_manifests_describe_the_same_machines():
    assert _cluster_spec("rayjob") == _cluster_spec("raycluster")


def test_the_autoscaler_file_is_valid():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = _load(CLUSTER / "autoscaler.yaml")
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(config | {"max_worker": 4}, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0
    workers = config["available_node_types"]["gpu"]
    assert workers["min_workers"] == 0
    assert workers["max_workers"] <= config["max_workers"]
    starts = [config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_parses_and_wants_a_command():
    script = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    without = subprocess.run(["bash", script], capture_output=True, text=True)
    assert without.returncode == 2
    assert without.stderr.startswith("usage: sbatch")
    text = script.read_text()
    assert re.search(r"srun --ntasks-per-node=1 .*\\\n +ray symmetric-run ", text)
    assert "#SBATCH --exclusive" in text
    assert "export RAY_AUTH_MODE=token" in text


def test_every_command_named_here_exists():
    found = {}
    for path in [*MANIFESTS.values(), CLUSTER / "autoscaler.yaml", CLUSTER / "slurm.sh", CLUSTER / "README.md"]:
        for command in COMMAND.findall(path.read_text()):
            found.setdefault(command, path.name)
    assert {"run", "submit"} <= set(found)
    assert set(found) <= set(cli.COMMANDS), found


def test_versions_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    container = (CLUSTER / "Containerfile").read_text()
    pins = dict(re.findall(r"^ARG (\w+)_VERSION=(\S+)$", container, flags=re.MULTILINE))
    assert f"torch=={pins['TORCH']}" in project["dependencies"]
    [wanted] = [line for line in project["dependencies"] if line.startswith("ray[")]
    low, high = re.search(r">=([\d.]+),<([\d.]+)", wanted).groups()
    numbers = [tuple(int(part) for part in version.split(".")) for version in (low, pins["RAY"], high)]
    assert numbers[0] <= numbers[1] < numbers[2]
    assert re.search(r"^FROM python:3\.11", container, flags=re.MULTILINE)
    assert re.search(r"^USER (?!root)\w+$", container, flags=re.MULTILINE)
    images = set()
    for kind in MANIFESTS:
        assert _cluster_spec(kind)["rayVersion"] == pins["RAY"]
        images |= {pod["containers"][0]["image"] for pod in _templates(kind)}
    images.add(_load(CLUSTER / "autoscaler.yaml")["docker"]["image"])
    assert images == {f"ttsgan:{project['version']}"}


def test_the_container_copies_what_exists():
    container = (CLUSTER / "Containerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.+)$", container, flags=re.MULTILINE) for word in line.split()[:-1]]
    assert {"pyproject.toml", "ttsgan", "ray_jobs"} <= set(sources)
    missing = [name for name in sources if not (ROOT / name).exists()]
    assert missing == []
