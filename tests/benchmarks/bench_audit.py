"""How often the audit passes honest sets, and what it costs.

    python tests/benchmarks/bench_audit.py --audits 20 --homes 5000
    pytest -m benchmark tests/benchmarks/bench_audit.py

In each audit, the training, holdout and synthetic sets are disjoint simulated households (a new split of one population
of three times ``--homes``), so the synthetic set leaks nothing. Prints a line of JSON per audit and, at the end, the
share that passes with its 95 % bounds, and the CPU-seconds. Exit status 1 when a verdict is FAIL or INVALID, or when
fewer than 95 of 100 audits pass.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ttsgan.data.simulate import simulate
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.privacy import audit
from ttsgan.evaluation.stats import clopper_pearson_lower, clopper_pearson_upper

LIMIT = 0.95


def population(households: int, seed: int) -> Judged:
    """Return simulated households of 4-hour means."""
    made = simulate(households, seed=seed)
    return Judged(
        values=made.values, entities=made.ids, starts=made.starts, step_seconds=made.step_seconds, unit=made.unit
    )


def honest(pool: Judged, homes: int, seed: int) -> dict:
    """Audit a random third of a population as if it were synthetic."""
    order = np.random.default_rng(seed).permutation(len(pool))
    train, holdout, other = (pool.take(np.sort(order[i * homes : (i + 1) * homes])) for i in range(3))
    synthetic = replace(other, entities=np.array([f"synthetic {i}" for i in range(homes)]))
    return audit(train, holdout, synthetic, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the audits and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=20)
    parser.add_argument("--homes", type=int, default=5000, help="in training, in the holdout, and synthetic")
    parser.add_argument("--seed", type=int, default=0, help="of the first audit; the others follow")
    options = parser.parse_args(arguments)
    pool = population(3 * options.homes, 20_000 + options.seed)
    verdicts, seconds = [], []
    for seed in range(options.seed, options.seed + options.audits):
        began = time.process_time()
        result = honest(pool, options.homes, seed)
        seconds.append(time.process_time() - began)
        verdicts.append(result["verdict"])
        open_checks = [check["name"] for check in result["checks"] if check["passed"] is not True]
        print(
            json.dumps(
                {"seed": seed, "verdict": verdicts[-1], "not passed": open_checks, "cpu_s": round(seconds[-1], 1)}
            ),
            flush=True,
        )
    passed, num = verdicts.count("PASS"), len(verdicts)
    bounds = [clopper_pearson_lower(passed, num), clopper_pearson_upper(passed, num)]
    figures = {
        "passes": {"value": passed / num, "bounds": [round(x, 4) for x in bounds], "limit": LIMIT},
        "false alarms": {"value": sum(v in ("FAIL", "INVALID") for v in verdicts), "limit": 0},
        "cpu seconds per audit": {"value": round(float(np.median(seconds)), 1), "limit": None},
    }
    good = passed >= LIMIT * num and figures["false alarms"]["value"] == 0
    for name, figure in figures.items():
        print(json.dumps({"name": name, "audits": num, "homes": options.homes, **figure}), flush=True)
    return 0 if good else 1


@pytest.mark.benchmark
def test_honest_sets_raise_no_alarm():
    pool = population(900, 5)
    assert not {honest(pool, 300, seed)["verdict"] for seed in range(3)} & {"FAIL", "INVALID"}


if __name__ == "__main__":
    sys.exit(main())
