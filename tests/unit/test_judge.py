"""What the judge says of the sets it is given."""

import numpy as np

from ray_jobs.judge import unit_question
from ttsgan.evaluation.judged import Judged


def test_another_unit_is_asked_about():
    def homes(scale):
        values = np.random.default_rng(0).gamma(1.0, scale, (20, 1, 48)).astype(np.float32)
        starts = np.full(20, np.datetime64("2013-01-01", "s"))
        return Judged(values=values, entities=np.arange(20).astype(str), starts=starts, step_seconds=3600, unit="")

    assert unit_question(homes(1.0), homes(4.0), "synthetic") == ""
    for scale in (1000.0, 0.001):
        told = unit_question(homes(1.0), homes(scale), "synthetic")
        assert "synthetic series" in told
        assert "another unit" in told
