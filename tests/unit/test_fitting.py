"""Training in pieces, as the benchmarks of parts and of stability do it, ends as training in one go."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from fitting import Ready, Training

from ttsgan.evaluation.judged import Judged


@pytest.fixture
def ready(small) -> Ready:
    sample = small.sample
    known = {"starts": sample.starts, "entities": sample.entities, "step_seconds": sample.step_seconds}
    return Ready(Judged(values=sample.values, unit="", **known), small.scaler, small.data, lambda *_: 1.0)


def test_a_training_in_pieces_ends_as_one_in_one_go(ready, small):
    whole = Training(ready, small.config)
    whole.advance()
    first = Training(ready, small.config).advance(before="days")
    second = Training(ready, small.config, first).advance(before="adversarial")
    last = Training(ready, small.config, second)
    last.advance()
    assert last.state.done
    for name, value in whole.state.average.state_dict().items():
        assert torch.equal(last.state.average.state_dict()[name], value), name
    assert "loss/generator" in last.figures.newest


def test_a_silent_branch_adds_nothing_to_the_end(ready, small):
    made = Training(ready, small.config, silent=("medium", "small"))
    made.advance()
    for networks in (made.state.networks, made.state.average):
        for name, branch in networks.generator.branches.items():
            written = branch(torch.ones(1, 42, small.config.generator.width))
            assert bool(written.any()) == (name not in ("medium", "small")), name


def test_a_draw_with_another_share_leaves_the_chosen_one(ready, small):
    made = Training(ready, small.config)
    made.advance()
    made.state.average.correction.fill_(0.5)
    torch.nn.init.constant_(made.state.average.generator.gain, 0.3)
    none, chosen, again = made.draw(6, share=0.0), made.draw(6), made.draw(6, share=0.5)
    assert made.share == 0.5
    assert none.values.shape == (6, *small.sample.values.shape[1:])
    assert (chosen.values == again.values).all()
    assert not (chosen.values == none.values).all()
