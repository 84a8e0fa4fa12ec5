"""The estimator and the model's files."""

import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from ttsgan import api, recipes
from ttsgan.api import TTSGAN
from ttsgan.errors import ConfigError, DataError, NotFittedError
from ttsgan.evaluation.fidelity import evaluate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import audit
from ttsgan.trained_model import Model
from ttsgan.training.dataset import build_train_set


@pytest.fixture(scope="module")
def fitted(sample, small_config) -> TTSGAN:
    return TTSGAN(small_config).fit(sample.values, step_seconds=sample.step_seconds, entities=sample.entities)


def test_fit_returns_itself_and_ends_its_attributes_with_an_underscore(fitted, small_config):
    assert isinstance(fitted, TTSGAN)
    assert fitted.config == small_config
    assert isinstance(fitted.model_, Model)
    assert fitted.cond_.shape == (len(np.unique(fitted.member_groups_)), 4)
    assert len(fitted.member_groups_) == 48
    assert np.bincount(fitted.member_groups_).min() >= 10


def test_default_configuration():
    assert TTSGAN().config == recipes.quick()


@pytest.mark.parametrize("use", [lambda e: e.sample(1), lambda e: e.save("nowhere")])
def test_not_fitted(use):
    with pytest.raises(NotFittedError, match="call fit first"):
        use(TTSGAN())


def test_samples(fitted, sample):
    made = fitted.sample(20)
    assert made.shape == (20, 1, 252)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert (made >= 0).all()
    assert len(np.unique(made.round(6), axis=0)) == 20
    level, real = np.log(made.mean((1, 2))), np.log(np.nanmean(sample.values, axis=(1, 2)))
    assert abs(level.mean() - real.mean()) < 1
    np.testing.assert_array_equal(fitted.sample(20), made)


@pytest.mark.parametrize("count", [0, 1, 8, 9])
def test_any_number_of_samples(fitted, count):
    assert fitted.sample(count).shape == (count, 1, 252)


def test_synthetic_series_are_no_copies(fitted, sample):
    made = fitted.sample(48)[:, 0]
    real = np.nan_to_num(sample.values[:, 0])
    together = np.corrcoef(np.concatenate([made, real]))[:48, 48:]
    assert together.max() < 0.98


def test_same_seed_same_series(fitted, sample, small_config):
    again = TTSGAN(small_config).fit(sample.values[:, 0], step_seconds=sample.step_seconds, entities=sample.entities)
    np.testing.assert_array_equal(again.sample(5), fitted.sample(5))


def test_input_is_left_as_it_was(sample, small_config):
    values, starts = sample.values.copy(), sample.starts.copy()
    scaler = api.fit_scaler(values, starts, sample.step_seconds, small_config)
    build_train_set(values, starts, sample.entities, scaler, small_config)
    np.testing.assert_array_equal(values, sample.values)


def test_a_model_of_another_version_is_named(fitted):
    files = fitted.model_.files()
    weights = safetensors.torch.load(files["networks.safetensors"])
    del weights["household.log_prior"]
    files["networks.safetensors"] = safetensors.torch.save(weights)
    with pytest.raises(DataError, match=r"another version of ttsgan.*household\.log_prior.*train again"):
        Model.load(files.__getitem__)


@pytest.mark.parametrize(("part", "more"), [("shape", {"year": 365}), ("config", {"weather": {}})])
def test_what_another_version_says_of_a_model_is_named(fitted, part, more):
    files = fitted.model_.files()
    about = json.loads(files["model.json"])
    about[part] |= more
    files["model.json"] = json.dumps(about).encode()
    with pytest.raises(DataError, match=rf"another version of ttsgan.*{next(iter(more))}.*train again"):
        Model.load(files.__getitem__)


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = TTSGAN.load(tmp_path / "model")
    np.testing.assert_array_equal(again.sample(10), fitted.sample(10))
    assert again.config == fitted.config


def test_starts_of_new_series(fitted):
    starts = fitted.sample_starts(7)
    assert starts.dtype == "datetime64[s]"
    assert (starts == np.datetime64("2013-01-01")).all()
    assert len(starts) == 7


@pytest.mark.parametrize("count", [2.5, "3", -1])
def test_count_is_a_whole_number(fitted, count):
    with pytest.raises(ConfigError, match=r"count is .*allowed: a whole number"):
        fitted.sample(count)


def test_estimators_that_cannot_be_read_are_named(fitted, tmp_path):
    with pytest.raises(DataError, match="absent is not an estimator"):
        TTSGAN.load(tmp_path / "absent")
    for name in ("model.json", "networks.safetensors", "groups.safetensors"):
        fitted.save(tmp_path / name)
        whole = (tmp_path / name / name).read_bytes()
        (tmp_path / name / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="damaged"):
            TTSGAN.load(tmp_path / name)


def test_groups_of_another_version_are_named(fitted, tmp_path):
    fitted.save(tmp_path)
    groups = safetensors.torch.load((tmp_path / "groups.safetensors").read_bytes())
    del groups["starts"]
    (tmp_path / "groups.safetensors").write_bytes(safetensors.torch.save(groups))
    with pytest.raises(DataError, match=r"damaged estimator \('starts'\)"):
        TTSGAN.load(tmp_path)


def test_files_of_a_model(fitted, sample):
    files = fitted.model_.files()
    assert json.loads(files["model.json"])["step_seconds"] == sample.step_seconds
    again = Model.load(files.__getitem__)
    assert again.config == fitted.config
    assert again.networks.shape == fitted.model_.networks.shape
    starts = np.full(48, np.datetime64("2013-01-01", "s"))
    np.testing.assert_array_equal(again.encode(sample.values, starts), fitted.model_.encode(sample.values, starts))
    assert again.files().keys() == files.keys()
    assert not again.networks.training


def test_encode(fitted, sample):
    latents = fitted.model_.encode(sample.values, sample.starts)
    assert latents.shape == (48, 4)
    assert latents.dtype == np.float32
    assert np.isfinite(latents).all()
    assert latents.std(0).min() > 0


def test_latent_of_a_series_does_not_depend_on_its_company(fitted, sample):
    """Encoding runs in portions, on several workers: the portion must not matter, tied values included."""
    whole = fitted.model_.encode(sample.values, sample.starts)
    parts = [fitted.model_.encode(sample.values[i : i + 7], sample.starts[i : i + 7]) for i in range(0, 48, 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_average_is_what_is_kept(fitted):
    assert not any(p.requires_grad for p in fitted.model_.networks.parameters())
    assert all(torch.isfinite(v).all() for v in fitted.model_.networks.state_dict().values())


@pytest.mark.parametrize("bad", [np.nan, 1.5])
def test_series_that_cannot_be_used_are_named(sample, small_config, bad):
    values = sample.values.copy()
    values[5] = bad
    with pytest.raises(DataError, match="series 5 is constant or wholly missing"):
        TTSGAN(small_config).fit(values, step_seconds=sample.step_seconds)


def test_infinite_values_are_refused(sample, small_config):
    values = sample.values.copy()
    values[2, 0, 5] = np.inf
    with pytest.raises(DataError, match="series 2"):
        TTSGAN(small_config).fit(values, step_seconds=sample.step_seconds)


def test_too_few_entities_are_refused_before_training(sample, small_config, monkeypatch):
    monkeypatch.setattr(api, "train", lambda *_: pytest.fail("trained before it was clear that groups can be made"))
    with pytest.raises(DataError, match="entit"):
        TTSGAN(small_config).fit(sample.values[:12], step_seconds=sample.step_seconds, entities=sample.entities[:12])


@pytest.mark.parametrize("name", ["starts", "entities"])
def test_lengths_must_agree(sample, small_config, name):
    with pytest.raises(DataError, match=name):
        TTSGAN(small_config).fit(sample.values, step_seconds=sample.step_seconds, **{name: getattr(sample, name)[:-1]})


@pytest.mark.parametrize("wrong", [{"starts": ["soon"] * 48}, {"entities": np.zeros((48, 2))}])
def test_starts_that_are_no_moments_and_tables_of_entities_are_refused(sample, small_config, wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        TTSGAN(small_config).fit(sample.values, step_seconds=sample.step_seconds, **wrong)


@pytest.mark.parametrize("wrong", [[["a"]], [[1.0, 2.0], [1.0]]])
def test_values_that_are_no_numbers_are_refused(small_config, wrong):
    with pytest.raises(DataError, match=r"values hold what is no number .*; allowed: real numbers, NaN"):
        TTSGAN(small_config).fit(wrong, step_seconds=14_400)


@pytest.mark.parametrize("shape", [(48 * 252,), (20, 2, 2, 8)])
def test_other_dimensions_are_refused(small_config, shape):
    with pytest.raises(DataError):
        TTSGAN(small_config).fit(np.random.default_rng(0).random(shape), step_seconds=14_400)


def test_scaler_is_fitted_on_a_part_of_many(sample, small_config, monkeypatch):
    monkeypatch.setattr(api, "MAX_SCALER_ROWS", 20)
    rows = np.sort(np.random.default_rng(0).choice(48, 20, replace=False))
    part = api.fit_scaler(sample.values, sample.starts, sample.step_seconds, small_config)
    monkeypatch.undo()
    wanted = api.fit_scaler(sample.values[rows], sample.starts[rows], sample.step_seconds, small_config)
    assert part.to_bytes() == wanted.to_bytes()


def test_homes_of_either_kind_take_part(monkeypatch):
    """Of five thousand homes five feed in: among those that the scaler is fitted on they are not missed."""
    monkeypatch.setattr(api, "MAX_SCALER_ROWS", 100)
    lowest, entities = np.zeros((5000, 1)), np.arange(5000).astype(str)
    before = api.scaler_rows(lowest, entities, 0)
    lowest[2000:2005] = -1
    rows = api.scaler_rows(lowest, entities, 0)
    assert set(range(2000, 2005)) <= set(rows)
    assert set(before) <= set(rows)
    assert len(rows) <= 110


def test_closeness_prefers_real_series(sample, small_config):
    """Unseen real series score better than noise, and noise better than a constant's neighbour."""
    whole = Judged(
        values=sample.values,
        entities=sample.entities,
        starts=sample.starts,
        step_seconds=sample.step_seconds,
        unit="kWh/h",
    )
    score = api.closeness(*map(whole.take, api.closeness_rows(sample.entities, 0)), 0)
    real = np.nan_to_num(sample.values, nan=0.1)
    noise = np.random.default_rng(0).permuted(real, axis=2)
    assert score(real, sample.starts) < score(noise, sample.starts)


def test_halves_that_are_compared_are_not_cut_as_validation_is(sample, small):
    """One stream of random numbers for both would put all entities kept for validation into one half."""
    apart = set(np.flatnonzero(small.data.validation.numpy()))
    in_first = [len(apart & set(api.closeness_rows(sample.entities, seed)[0])) / len(apart) for seed in range(20)]
    assert 0.2 < np.mean(in_first) < 0.8


def test_two_channels_end_to_end(sample, small_config):
    """Load and temperature together, a length that ends within a day."""
    rng = np.random.default_rng(0)
    day = np.sin(2 * np.pi * np.arange(250) / 6)
    warm = 5 + 3 * rng.normal(size=(48, 1)) + 4 * day + rng.normal(size=(48, 250))
    values = np.stack([sample.values[:, 0, :250], warm.astype(np.float32)], axis=1)
    made = TTSGAN(small_config).fit(values, step_seconds=sample.step_seconds).sample(12)
    assert made.shape == (12, 2, 250)
    assert np.isfinite(made).all()
    assert (made[:, 0] >= 0).all()
    assert (made[:, 1] < 0).any()


def test_a_channel_that_only_some_homes_have(sample, small_config):
    """Two homes in three have no roof: their second channel is zero throughout, and that of about as many new ones."""
    sun = np.array([0, 0, 0.8, 0.9, 0, 0])[np.arange(252) % 6]
    fed = sun * np.random.default_rng(0).gamma(2.0, 0.5, (48, 252))
    fed[np.arange(48) % 3 > 0] = 0
    values = np.stack([sample.values[:, 0], fed.astype(np.float32)], axis=1)
    made = TTSGAN(small_config).fit(values, step_seconds=sample.step_seconds).sample(48)
    none = (made[:, 1] == 0).all(axis=1)
    assert none.mean() == pytest.approx(2 / 3, abs=0.15)
    assert made[~none, 1].mean() == pytest.approx(fed[::3].mean(), rel=0.2)
    assert (made[~none][:, 1].reshape(-1, 6)[:, [0, 1, 4, 5]] == 0).mean() > 0.85, "nights"
    assert (made[:, 0].mean(axis=1) > 0).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_training(sample, small_config):
    config = recipes.override(small_config, ["runtime.use_gpu=true"])
    with pytest.raises(ConfigError, match=r"runtime\.use_gpu is true, but torch finds no GPU"):
        TTSGAN(config).fit(sample.values, step_seconds=sample.step_seconds)


@pytest.mark.parametrize("step_seconds", [0, -1, 14_400.0, "4h"])
def test_a_step_that_is_no_number_of_seconds_is_refused(sample, small_config, step_seconds):
    with pytest.raises(ConfigError, match="step_seconds is"):
        TTSGAN(small_config).fit(sample.values, step_seconds=step_seconds)


def test_a_channel_that_nobody_uses_is_named(sample, small_config):
    values = np.concatenate([sample.values, np.zeros_like(sample.values)], axis=1)
    with pytest.raises(DataError, match="channel 1 is zero in every training series; leave it out"):
        TTSGAN(small_config).fit(values, step_seconds=sample.step_seconds)


def test_an_estimator_goes_through_pickle(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.sample(5), fitted.sample(5))
    assert np.array_equal(again.sample_starts(5), fitted.sample_starts(5))
    assert pickle.loads(pickle.dumps(TTSGAN(fitted.config))).config == fitted.config


def test_random_numbers_of_the_program_go_on(sample, small_config):
    torch.manual_seed(7)
    wanted = torch.rand(2)
    torch.manual_seed(7)
    first = torch.rand(1)
    TTSGAN(small_config).fit(sample.values, step_seconds=sample.step_seconds, entities=sample.entities)
    assert torch.equal(torch.cat([first, torch.rand(1)]), wanted)


def test_progress_is_logged(sample, small_config, caplog):
    caplog.set_level("INFO", logger="ttsgan")
    TTSGAN(small_config).fit(sample.values, step_seconds=sample.step_seconds, entities=sample.entities)
    told = [record.message for record in caplog.records if record.name == "ttsgan.training.telemetry"]
    assert any(line.startswith("days: ") and "loss/days" in line for line in told)
    assert told[-1].startswith("adversarial: 112 of 112 series; score/correction_0 ")


def test_a_place_that_cannot_be_written_is_named(fitted, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="cannot be written into"):
            fitted.save(place)


def test_a_configuration_is_no_name():
    with pytest.raises(ConfigError, match=r"config is 'quick'; allowed: a RunConfig, such as ttsgan.recipes.quick\(\)"):
        TTSGAN("quick")


def test_sets_are_judged_from_python(sample):
    """The lines of the README: whole series (n, C, L) with entities, starts, step and unit."""
    sets = [
        Judged(
            values=sample.values[part],
            entities=sample.entities[part],
            starts=sample.starts[part],
            step_seconds=sample.step_seconds,
            unit="kWh",
        )
        for part in (slice(0, 16), slice(16, 32), slice(32, 48))
    ]
    assert evaluate(*sets, bootstrap=20)["headline"]["value"] > 0
    assert audit(*sets)["verdict"] in ("INVALID", "UNPROVEN")
