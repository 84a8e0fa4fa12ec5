"""Output of training: progress lines, JSON lines, TensorBoard scalars and pictures, and that they agree."""

import io
import json
import math
import time
from collections import defaultdict

import numpy as np
import pytest
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from ray_jobs.train import _progress_line
from ttsgan import api, recipes
from ttsgan.training import transitions
from ttsgan.training.runtime import LocalRuntime
from ttsgan.training.telemetry import PROGRESS_FILE, Telemetry

LINE = {"time", "stage", "series_seen", "total_series", "series_per_second", "seconds_left"}
"""Fields of every JSON line."""
PHASES = {"encoder": ["encoder"], "days": ["days"], "adversarial": ["discriminator", "generator"]}
LOOKED = {
    "validation/days": "days",
    "score/prior": "days",
    **dict.fromkeys(("diversity", "generator/cycle", "score/pool", "correction"), "adversarial"),
    **{f"score/correction_{share:g}": "adversarial" for share in transitions.CORRECTIONS},
}
"""Figures other than losses, norms and rates, and the stage that shows them."""


def score(values, starts):
    return abs(float(values.std()) - 1)


@pytest.fixture(scope="module")
def shown(small, tmp_path_factory):
    """Return the JSON lines and the events of a training that logs every step."""
    folder = tmp_path_factory.mktemp("seen")
    config = recipes.override(small.config, ["training.log_interval=8", "training.max_series=160"])
    api.train(small.data, small.scaler, config, LocalRuntime(), folder, score)
    lines = [json.loads(line) for line in (folder / PROGRESS_FILE).read_text().splitlines()]
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, IMAGES: 0})
    events.Reload()
    return lines, events


def test_every_step_of_every_stage_says_what_was_asked(shown):
    lines = [line for line in shown[0] if "doing" not in line]
    assert all(set(line) >= LINE for line in shown[0])
    for stage, phases in PHASES.items():
        steps = [line for line in lines if line["stage"] == stage and "workers" in line]
        assert len(steps) >= 6
        for line in steps:
            for figure in (f"{kind}/{phase}" for kind in ("loss", "gradient_norm", "rate") for phase in phases):
                assert math.isfinite(line[figure]), figure
            assert stage != "adversarial" or line["diversity"] > 0 < line["generator/cycle"]
        assert all(line["series_per_second"] > 0 for line in steps[1:])
        assert all(line["seconds_left"] >= 0 for line in steps[1:-1])
        # In tenths of a second: in so short a training, the rest of the last stage may be rounded to zero.
        assert stage == "adversarial" or steps[1]["seconds_left"] > 0
    told = {name: {line["stage"] for line in lines if name in line} for name in LOOKED}
    assert told == {name: {stage} for name, stage in LOOKED.items()}


def test_tensorboard_shows_what_the_lines_say(shown):
    lines, events = shown
    wanted = defaultdict(list)
    for line in lines:
        known = () if line["seconds_left"] is None else ("series_per_second", "seconds_left")
        for name in (set(line) - LINE - {"doing"}) | set(known):
            wanted[name].append((line["series_seen"], line[name]))
    assert set(wanted) > {"series_per_second", "loss/generator", "gradient_norm/days", *LOOKED}
    assert set(events.Tags()["scalars"]) == set(wanted)
    for name, points in wanted.items():
        held = [(event.step, event.value) for event in events.Scalars(name)]
        assert [at for at, _ in held] == [at for at, _ in points], name
        # Values in the lines are rounded, times more coarsely.
        np.testing.assert_allclose([v for _, v in held], [v for _, v in points], rtol=1e-5, atol=0.051, err_msg=name)


def test_pictures_come_with_the_looks_at_the_prior_and_at_the_end(shown):
    lines, events = shown
    looks = [line["series_seen"] for line in lines if "score/prior" in line]
    assert [event.step for event in events.Images("weeks")] == [*looks, lines[-1]["series_seen"]]
    for event in events.Images("weeks"):
        pixels = imread(io.BytesIO(event.encoded_image_string), format="png")[..., :3].min(2)
        halves = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
        assert all((half < 0.5).mean() > 0.01 for half in halves), "lines in both"


def test_steps_that_are_repeated_are_shown_once(tmp_path):
    """An interrupted training resumes from its last checkpoint, which is before the last step that it logged."""
    for steps, loss in (((8, 16, 24, 32), 1.0), ((24, 32, 40), 2.0)):
        told = Telemetry(tmp_path, 40)
        for at in steps:
            told.report("days", at, {"loss/days": loss})
        told.close()
        time.sleep(1)  # TensorBoard reads files in the order of the second in which they were made
    events = EventAccumulator(str(tmp_path), size_guidance={SCALARS: 0})
    events.Reload()
    held = [(event.step, event.value) for event in events.Scalars("loss/days")]
    assert held == [(8, 1.0), (16, 1.0), (24, 2.0), (32, 2.0), (40, 2.0)]


def test_a_picture_has_real_weeks_beside_synthetic_ones(tmp_path):
    """Four weeks of each kind, from mid-year."""
    drawn, told = [], Telemetry(tmp_path, 1)
    random = np.random.default_rng(0)
    real, synthetic = random.normal(size=(6, 1, 100)), random.normal(size=(4, 1, 100))
    told._try = lambda at, write: write(type("Board", (), {"add_figure": lambda _, *args: drawn.append(args)})())
    told.picture("weeks", 20, real, synthetic, 7)
    ((name, figure, at),) = drawn
    assert (name, at) == ("weeks", 20)
    for column, (title, series) in enumerate((("real", real), ("synthetic", synthetic))):
        axes = figure.axes[column::2]
        assert axes[0].get_title() == title
        for row, panel in enumerate(axes):
            np.testing.assert_array_equal(panel.lines[0].get_ydata(), series[row, 0, 50:57])


def test_what_is_drawn_is_in_physical_units(trainer, small):
    """Real series are as read, up to rounding of their quantiles; synthetic ones are as written from the pool."""
    made = trainer("training.max_series=48", score=score)
    state = made.train()
    name, at, real, synthetic, steps = made.telemetry.pictures[-1]
    assert (name, at, steps) == ("weeks", state.total_series, 42)
    for drawn, read in zip(real[:3], small.sample.values[:3], strict=True):
        assert np.corrcoef(drawn.ravel(), read.ravel())[0, 1] > 0.9
        assert drawn.mean() == pytest.approx(read.mean(), rel=0.05)
    np.testing.assert_array_equal(synthetic, transitions.pool_values(state, made.data, made.scaler, 4)[0])


def line(**said) -> bytes:
    known = {"stage": "adversarial", "series_seen": 96, "total_series": 120, "series_per_second": 31.4}
    return json.dumps({**known, "seconds_left": 12.3, **said}).encode()


def test_a_line_of_progress_in_words():
    figures = {
        "loss/discriminator": 1.38629, "loss/generator": 0.7, "gradient_norm/discriminator": 0.25,
        "gradient_norm/generator": 0.125, "rate/generator": 1e-4, "diversity": 0.9312, "generator/cycle": 0.8,
        "score/pool": 1.25,
    }  # fmt: skip
    assert _progress_line(line(**figures)) == (
        "training adversarial: 96/120 series, 31/s, 12 s left; loss: discriminator 1.386, generator 0.700; "
        "gradient: discriminator 0.250, generator 0.125; diversity 0.931; distance to condition 0.800; headline 1.250"
    )
    back = _progress_line(line(series_per_second=0.0, seconds_left=None, **{"rollbacks": 2.0, "loss/days": None}))
    assert back == "training adversarial: 96/120 series; gone back 2 times in this stage"
    doing = _progress_line(line(doing="drawing households"))
    assert doing == "training, before adversarial: drawing households"
    assert _progress_line(b'{"stage": "da') == "training", "a line that is not whole yet"


def test_each_line_of_a_training_can_be_told(shown):
    for said in shown[0]:
        words = _progress_line(json.dumps(said).encode())
        assert words.startswith("training")
        assert ("gradient: " in words and "loss: " in words) == ("workers" in said)
