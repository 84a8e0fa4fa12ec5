"""Settings: ranges, error texts, round trips."""

import dataclasses
import json

import pytest

from ttsgan import config as c
from ttsgan import recipes
from ttsgan.errors import ConfigError


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipe_survives_json(name):
    made = recipes.by_name(name)
    assert made.recipe == name
    assert recipes.from_dict(json.loads(json.dumps(recipes.to_dict(made)))) == made


def test_unknown_recipe():
    with pytest.raises(ConfigError, match=r"recipe is 'huge'; allowed: quick, base, large"):
        recipes.by_name("huge")


def test_missing_fields_keep_defaults():
    made = recipes.from_dict({"loss": {"name": "hinge"}})
    assert made == dataclasses.replace(c.RunConfig(), loss=c.LossConfig(name="hinge"))


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.RunConfig().seed = 3


@pytest.mark.parametrize(
    ("text", "section", "field", "value"),
    [
        ("generator.depth=4", "generator", "depth", 4),
        (" generator.depth = 4 ", "generator", "depth", 4),
        ("encoder.dropout=1e-1", "encoder", "dropout", 0.1),
        ("runtime.use_gpu=ON", "runtime", "use_gpu", True),
        ("data.source=a.parquet,b.parquet", "data", "source", ("a.parquet", "b.parquet")),
        ("data.step=4h", "data", "step", "4h"),
        ("data.holdout=held=out.parquet", "data", "holdout", "held=out.parquet"),
    ],
)
def test_override(text, section, field, value):
    before = recipes.quick()
    after = recipes.override(before, [text])
    assert getattr(getattr(after, section), field) == value
    changed = {name for name, held in recipes.flat(after).items() if held != recipes.flat(before)[name]}
    assert changed == {f"{section}.{field}"}


def test_override_top_level_and_in_order():
    assert recipes.override(recipes.quick(), ["seed=3", "seed=4"]).seed == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("generator.depth", r"override 'generator.depth' has no '='; write section.field=value"),
        ("generator.deep=4", r"unknown setting 'generator.deep'; known here: .*depth"),
        ("generators.depth=4", r"unknown setting 'generators.depth'; known here: .*generator"),
        ("generator=4", r"override 'generator' does not name a single field"),
        ("seed.x=4", r"override 'seed.x' does not name a single field"),
        ("=4", r"unknown setting ''"),
        ("generator.depth=four", r"generator.depth is 'four'; allowed: a value of type int"),
        ("generator.depth=1.5", r"generator.depth is '1.5'; allowed: a value of type int"),
        ("encoder.dropout=nan", r"encoder.dropout is 'nan'; allowed: a value of type float"),
        ("encoder.kl_weight=inf", r"encoder.kl_weight is 'inf'; allowed: a value of type float"),
        ("runtime.use_gpu=maybe", r"runtime.use_gpu is 'maybe'; allowed: a value of type bool"),
        ("generator.depth=0", r"generator.depth is 0; allowed: 1 or more"),
    ],
)
def test_override_refuses(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        recipes.override(recipes.quick(), [text])
    assert "\n" not in str(caught.value)


def test_overrides_that_only_fit_together():
    made = recipes.override(recipes.quick(), ["encoder.heads=5", "encoder.width=30"])
    assert (made.encoder.width, made.encoder.heads) == (30, 5)
    made = recipes.override(recipes.quick(), ["training.encoder_share=0.7", "training.days_share=0.2"])
    assert made.training.encoder_share == 0.7


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"generator": {"deep": 1}}, r"unknown setting 'generator.deep'"),
        ({"generator": 3}, r"generator is 3; allowed: a table of fields"),
        ([], r"configuration is \[\]; allowed: a table"),
        ({"seed": True}, r"seed is True; allowed: a value of type int"),
        ({"seed": 0.5}, r"seed is 0.5; allowed: a value of type int"),
        ({"seed": None}, r"seed is None; allowed: a value of type int"),
        ({"data": {"step": 4}}, r"data.step is 4; allowed: a value of type str"),
        ({"data": {"source": ["a", 5]}}, r"data.source is 5; allowed: a value of type str"),
        ({"data": {"source": 5}}, r"data.source is 5; allowed"),
        ({"encoder": {"dropout": "x"}}, r"encoder.dropout is 'x'; allowed: a value of type float"),
    ],
)
def test_from_dict_refuses(tree, says):
    with pytest.raises(ConfigError, match=says):
        recipes.from_dict(tree)


def test_whole_floats_are_whole_numbers():
    made = recipes.from_dict({"seed": 3.0, "training": {"grad_clip": 2}})
    assert made.seed == 3
    assert isinstance(made.seed, int)
    assert isinstance(made.training.grad_clip, float)


BAD = [
    ("data.canaries", -1), ("evaluate.classifier_series", 9), ("evaluate.classifier_seeds", 0),
    ("audit.fragments", 0.0),
    ("data.source", ()), ("data.source", ("",)), ("data.holdout", "0"), ("data.holdout", "1"), ("data.holdout", "nan"),
    ("data.aggregate", "max"), ("data.step_seconds", -1), ("data.min_observed", 0.0), ("data.min_observed", 1.1),
    ("sample.households", 0), ("sample.length", 100), ("sample.seed", -1), ("patch.size", -1),
    ("encoder.width", 31), ("encoder.width", 0), ("encoder.heads", 0), ("encoder.depth", 0), ("encoder.latent_dim", 0),
    ("encoder.dropout", 1.0), ("encoder.dropout", -0.1), ("encoder.kl_weight", -1.0), ("encoder.free_bits", -1.0),
    ("household.quantile_components", 0), ("household.habit_components", 0), ("household.mixtures", 0),
    ("days.width", 91), ("days.heads", 0), ("days.depth", 0), ("days.memory", 0), ("days.mixtures", 0),
    ("days.values", 0), ("days.value_width", 0), ("days.crop", 0), ("days.dropout", 1.0), ("days.jitter", -0.1),
    ("days.last_dropout", 1.0),
    ("generator.width", 51), ("generator.heads", 0), ("generator.depth", 0), ("generator.noise", "pink"),
    ("generator.noise_dim", 0), ("generator.correction_limit", 0.0), ("discriminator.width", 51),
    ("discriminator.heads", 0), ("discriminator.depth", 0), ("discriminator.local_weight", -1.0), ("loss.name", "gan"),
    ("loss.penalty_interval", 0), ("loss.penalty_weight", -1.0), ("loss.drift", -1.0),
    ("loss.mode_seeking", -1.0), ("loss.cycle", -1.0),
    ("training.max_series", 0), ("training.batch_size", 0), ("training.accumulation", 0), ("training.ema_half_life", 0),
    ("training.checkpoint_interval", 0), ("training.log_interval", 0), ("training.encoder_lr", 0.0),
    ("training.days_lr", 0.0), ("training.generator_lr", 0.0), ("training.discriminator_lr", 0.0),
    ("training.grad_clip", 0.0), ("training.encoder_share", 1.0), ("training.days_share", 0.96),
    ("training.warmup", 1.0), ("training.diversity_floor", 1.0), ("training.validation_share", 0.0),
    ("training.validation_share", 0.6), ("training.weight_decay", -1.0), ("training.precision", "fp8"),
    ("training.checksum_interval", -1),
    ("cluster.min_group_size", 9), ("cluster.groups", 1), ("cluster.iterations", 0), ("cluster.probes", 5),
    ("cluster.outlier_quantile", 0.5), ("cluster.max_dominance", 0.0), ("generate.series", -1),
    ("generate.chunk", 0), ("evaluate.max_series", 9), ("evaluate.bootstrap", 19), ("audit.max_targets", 99),
    ("audit.auc", 0.5), ("audit.tpr", 0.01), ("audit.outlier_tpr", 1.0), ("audit.soft_copies", 0.0),
    ("audit.linkage_risk", 1.0), ("runtime.num_workers", -1), ("runtime.min_workers", 3),
    ("runtime.cpus_per_worker", 0), ("runtime.max_failures", -1), ("runtime.max_concurrent_trials", 0),
    ("runtime.scale_up_seconds", -1), ("seed", -1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda x: str(x))
def test_out_of_range(name, value):
    """A value just outside the stated range is refused where it is declared, by a line that names the field."""
    section, _, field = name.rpartition(".")
    default = getattr(c.RunConfig(), section) if section else c.RunConfig()
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(default, **{field: value})
    assert "\n" not in str(caught.value)
    assert (section or field) in str(caught.value)
    assert "allowed" in str(caught.value)


def test_every_number_has_a_refused_value():
    numbers = {name for name, value in recipes.flat(c.RunConfig()).items() if isinstance(value, int | float)}
    switches = {"runtime.use_gpu"}
    assert numbers - switches == {name for name, value in BAD if not isinstance(value, str | tuple)}


@pytest.mark.parametrize("section", ["encoder", "days", "generator", "discriminator"])
@pytest.mark.parametrize("width", [4, 12])
def test_heads_need_an_even_width(section, width):
    """Rotary positions turn pairs: a head of one or three numbers cannot be turned."""
    default = getattr(c.RunConfig(), section)
    with pytest.raises(ConfigError, match=f"{section}.width is {width}"):
        dataclasses.replace(default, width=width, heads=4)


def test_holdout_by_kind_of_data():
    assert c.DataConfig().holdout_fraction() == 0.5
    assert c.DataConfig(source=("a.csv",)).holdout_fraction() == 0.25
    assert c.DataConfig(holdout="0.3").holdout_fraction() == 0.3
    assert c.DataConfig(holdout="held.parquet").holdout_fraction() is None


def test_flat_names_every_leaf():
    made = recipes.flat(recipes.quick())
    assert made["generator.depth"] == recipes.quick().generator.depth
    assert made["seed"] == 0
    count = sum(
        len(dataclasses.fields(getattr(recipes.quick(), f.name)))
        if dataclasses.is_dataclass(getattr(recipes.quick(), f.name))
        else 1
        for f in dataclasses.fields(c.RunConfig)
    )
    assert len(made) == count
