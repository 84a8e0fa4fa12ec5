"""A setting that nothing reads is a lie: each one changes something that can be seen.

Settings of the library are changed one by one and a run of two steps a stage is compared with the plain one; settings
of preparation go through `prepare`. What only the Ray drivers and judges read is looked up in their source (`READ`).
"""

import ast
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import ttsgan
from ttsgan import api, recipes
from ttsgan.data.prepare import day_points, prepare
from ttsgan.errors import TtsganError
from ttsgan.training.dataset import build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime

ROOT = Path(ttsgan.__file__).parents[1]

CHANGES = {
    "seed": 5,
    "patch.size": 3,
    "encoder.width": 8, "encoder.depth": 2, "encoder.heads": 1, "encoder.latent_dim": 3, "encoder.dropout": 0.5,
    "encoder.kl_weight": 1.0, "encoder.free_bits": 2.0,
    "household.quantile_components": 2, "household.habit_components": 2, "household.mixtures": 1,
    "days.width": 8, "days.depth": 2, "days.heads": 1, "days.memory": 2, "days.mixtures": 3, "days.dropout": 0.5,
    "days.value_width": 8, "days.jitter": 0.5, "days.last_dropout": 0.1, "days.crop": 20, "days.values": 3,
    "generator.width": 8, "generator.depth": 2, "generator.heads": 1, "generator.noise": "white",
    "generator.noise_dim": 3, "generator.correction_limit": 0.1,
    "discriminator.width": 8, "discriminator.depth": 3, "discriminator.heads": 1, "discriminator.local_weight": 0.2,
    "loss.name": "hinge", "loss.penalty_weight": 1.0, "loss.penalty_interval": 1, "loss.drift": 0.1,
    "loss.mode_seeking": 0.5, "loss.cycle": 0.0,
    "training.max_series": 96, "training.encoder_share": 0.5, "training.days_share": 0.5, "training.batch_size": 4,
    "training.encoder_lr": 1e-4, "training.days_lr": 1e-4, "training.generator_lr": 1e-5,
    "training.discriminator_lr": 1e-5, "training.warmup": 0.9, "training.weight_decay": 5.0, "training.grad_clip": 1e-6,
    "training.ema_half_life": 1, "training.precision": "bf16", "training.checkpoint_interval": 8,
    "training.log_interval": 8, "training.diversity_floor": 0.999, "training.validation_share": 0.4,
    "cluster.min_group_size": 20, "cluster.groups": 3, "cluster.iterations": 1, "cluster.probes": 11,
    "cluster.outlier_quantile": 0.6, "cluster.max_dominance": 0.05,
}  # fmt: skip
"""Another value for each setting that a short training can show."""

PREPARED = {
    "data.source": None, "data.step": "2h", "data.entity": "street", "data.aggregate": "mean", "data.unit": "kW",
    "data.step_seconds": 900, "data.start": "2020-02-02", "data.min_observed": 0.9,
    "data.period": "2013-01-01/2013-01-02",
}  # fmt: skip
"""Another value for each setting of preparation; the source is another file."""

READ = {
    "recipe", "data.holdout", "data.canaries", "sample.households", "sample.length", "sample.seed",
    "generate.series",
    "generate.chunk", "evaluate.max_series", "evaluate.bootstrap",
    "evaluate.classifier_series", "evaluate.classifier_seeds", "audit.max_targets", "audit.auc", "audit.tpr",
    "audit.outlier_tpr", "audit.soft_copies", "audit.fragments", "audit.linkage_risk", "training.accumulation",
    "training.checksum_interval", "runtime.num_workers", "runtime.min_workers", "runtime.use_gpu",
    "runtime.cpus_per_worker", "runtime.max_failures", "runtime.scale_up_seconds", "runtime.max_concurrent_trials",
}  # fmt: skip
"""Settings that need a cluster, thousands of series or a judge to show: proven by who reads them."""


def test_every_setting_is_proven_somehow():
    proven = [*CHANGES, *PREPARED, *READ]
    assert len(proven) == len(set(proven))
    assert set(proven) == set(recipes.flat(recipes.quick()))


# ---- a short training ------------------------------------------------------------------------------------------------


class Told:
    """Collects what a run says and keeps."""

    def __init__(self):
        self.lines, self.kept = [], []

    def report(self, *line):
        self.lines.append(line)

    def picture(self, *_):
        self.lines.append("picture")


def short_training(small, **changed) -> str:
    """Return a fingerprint of all that two steps a stage leave behind, or the error they end in."""
    base = [
        "training.max_series=56", "training.encoder_share=0.3", "training.days_share=0.3", "training.log_interval=1000",
        # latents so far apart that k-means does not come to rest at once
        "training.encoder_lr=0.05", "loss.penalty_interval=2", "cluster.iterations=20", "cluster.max_dominance=1",
    ]  # fmt: skip
    config = recipes.override(small.config, base)
    for name, value in changed.items():
        section, _, field = name.rpartition(".")
        if section:
            config = dataclasses.replace(
                config, **{section: dataclasses.replace(getattr(config, section), **{field: value})}
            )
        else:
            config = dataclasses.replace(config, **{name: value})
    sample, told, runtime = small.sample, Told(), LocalRuntime()
    runtime.save = lambda name, files, metrics: told.kept.append(name)
    values, starts = sample.values[..., : 6 * 21], sample.starts
    scaler = api.fit_scaler(values, starts, sample.step_seconds, config)
    data = build_train_set(values, starts, sample.entities, scaler, config)
    try:
        state = Trainer(config, data, scaler, runtime, told, None).train()
    except TtsganError as error:
        return str(error)
    mark = hashlib.sha256(f"{told.lines} {told.kept} {state.total_series}".encode())
    for networks in (state.networks, state.average):
        for name, tensor in networks.state_dict().items():
            mark.update(name.encode() + str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return mark.hexdigest()


@pytest.fixture(scope="module")
def plain(small):
    return short_training(small)


def test_the_fingerprint_is_steady(small, plain):
    assert len(plain) == 64, plain
    assert short_training(small) == plain


@pytest.mark.parametrize("name", CHANGES)
def test_setting_changes_the_training(small, plain, name):
    assert short_training(small, **{name: CHANGES[name]}) != plain


@pytest.mark.parametrize(
    ("name", "count"),
    [("encoder.depth", 1), ("days.depth", 1), ("generator.depth", 3), ("discriminator.depth", 1)],
)
def test_depth_is_blocks(name, count):
    """One more of it is one more block in that network (in each of three branches of the generator)."""

    def blocks(config):
        from ttsgan.models.layers import Block
        from ttsgan.models.networks import Networks, SeriesShape

        shape = SeriesShape(channels=1, length=60, patch_size=6, week=7, num_features=13, num_numbers=5)
        return sum(isinstance(m, Block) for m in getattr(Networks(config, shape), name.split(".")[0]).modules())

    before = recipes.quick()
    after = recipes.override(before, [f"{name}={recipes.flat(before)[name] + 1}"])
    assert blocks(after) == blocks(before) + count


def test_precision_is_refused_where_it_cannot_be(small):
    assert "training.precision is 'fp16' on a CPU" in short_training(small, **{"training.precision": "fp16"})


# ---- preparation -----------------------------------------------------------------------------------------------------


def prepared(folder: Path, **changed) -> str:
    """Return a fingerprint of the prepared set, or the error."""
    values = np.random.default_rng(0).random((6, 50)).astype(np.float32)
    values[0, :20] = np.nan
    for name, shift in (("a", 0), ("b", 1)):
        np.save(folder / f"{name}.npy", values + shift)
    tree = {"data": {"source": [str(folder / "a.npy")], "unit": "kWh", "step_seconds": 3600}, "patch": {"size": 12}}
    for name, value in changed.items():
        section, _, field = name.partition(".")
        tree[section][field] = [str(folder / "b.npy")] if name == "data.source" else value
    # Aggregation shows where there is something to aggregate.
    if "data.aggregate" in changed or "data.plain" in changed:
        tree["data"]["step"] = "2h"
        tree["data"].pop("plain", None)
    config = recipes.from_dict(tree)
    try:
        series, _ = prepare(config.data, None)
        day_points(series.step_seconds, config.patch)
    except TtsganError as error:
        return str(error)
    told = [
        list(series.ids),
        list(series.entities),
        series.starts.astype(str).tolist(),
        series.step_seconds,
        series.unit,
    ]
    return json.dumps(told, default=str) + hashlib.sha256(series.values.tobytes()).hexdigest()


@pytest.mark.parametrize("name", PREPARED)
def test_setting_changes_the_preparation(tmp_path, name):
    before = prepared(tmp_path, **({"data.plain": 1} if name == "data.aggregate" else {}))
    assert prepared(tmp_path, **{name: PREPARED[name]}) != before


# ---- who reads it ----------------------------------------------------------------------------------------------------


ALIASES = {"audit": "limits", "evaluate": "limits", "cluster": "config", "": "config"}
"""What functions call a section that they are handed; the drivers call it by its own name."""


def _reads() -> set[tuple[str, str]]:
    """Return every ``owner.attribute`` that the code outside ttsgan/config reads, the owner by its last name."""
    seen = set()
    for file in [*(ROOT / "ttsgan").rglob("*.py"), *(ROOT / "ray_jobs").rglob("*.py")]:
        if file.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                seen.add((getattr(owner, "attr", getattr(owner, "id", "")), node.attr))
    return seen


def test_other_settings_are_read():
    reads = _reads()
    unread = set()
    for name in READ:
        section, _, field = name.rpartition(".")
        if not {(section, field), (ALIASES.get(section, section), field)} & reads:
            unread.add(name)
    assert unread == set()


def test_holdout_is_a_share_or_a_place():
    assert recipes.override(recipes.quick(), ["data.holdout=0.4"]).data.holdout_fraction() == 0.4


def test_length_of_the_sample_is_that_of_the_simulation():
    from ttsgan.data.simulate import simulate

    quick = recipes.override(recipes.quick(), ["sample.households=2", "sample.length=8760", "sample.seed=3"]).sample
    made = simulate(quick.households, quick.length, quick.seed)
    assert made.values.shape == (2, 1, 8760)
    assert not np.array_equal(made.values, simulate(2, 8760, 0).values)
