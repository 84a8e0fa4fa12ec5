"""The bytes that training workers exchange in a step, and the time that this costs on fast and on slow links.

    python tests/benchmarks/communication.py --recipe large

Takes real steps of each stage on a GPU and counts every byte that the training code passes to its runtime. From that it
predicts, for several numbers of GPUs, the share of the time that remains for the step itself beside the exchange.
Prints the table of results/communication.md.
"""

import argparse
import math
import time

import torch
from torch import Tensor

from ttsgan import api, recipes
from ttsgan.data.simulate import simulate
from ttsgan.training import transitions
from ttsgan.training.dataset import build_train_set
from ttsgan.training.loop import Trainer
from ttsgan.training.runtime import LocalRuntime
from ttsgan.training.telemetry import Telemetry

STEP_SECONDS, HOUSEHOLDS, WARMUP, STEPS = 14_400, 128, 3, 10
NODE = 8
"""GPUs of a node, which are connected by the fast link."""
LINKS = {"8 x 400 Gbit/s": 400e9, "100 Gbit/s": 12.5e9}
"""Bytes per second, one way, out of a node: a ring crosses each boundary once for every network card."""
INSIDE = 450e9
"""Bytes per second and GPU, one way, inside a node (NVLink of an H100)."""
LATENCY = 10e-6
"""Seconds for one hop of a message."""
GPUS = (8, 64, 512)


class Counting(LocalRuntime):
    """Counts messages and bytes that would be sent."""

    def __init__(self, device: str) -> None:
        super().__init__(device=device)
        self.messages, self.bytes = 0, 0

    def mean(self, tensors: list[Tensor]) -> None:
        """Count the bytes, and one message for each data type, instead of averaging."""
        self.messages += len({t.dtype for t in tensors})
        self.bytes += sum(t.numel() * t.element_size() for t in tensors)


def measure(recipe: str, share: int, device: str) -> list[tuple[str, int, int, float]]:
    """Return stage, messages, bytes and seconds of a step on ``share`` series, by stage."""
    changes = [f"training.batch_size={share}", "cluster.min_group_size=10"]
    config = recipes.override(recipes.by_name(recipe), changes)
    people = simulate(HOUSEHOLDS)
    scaler = api.fit_scaler(people.values, people.starts, STEP_SECONDS, config)
    data = build_train_set(people.values, people.starts, people.ids.astype(str), scaler, config)
    runtime = Counting(device)
    made = Trainer(config, data, scaler, runtime, Telemetry(None, 1))
    transitions.POOL_CHUNK, transitions.POOL_CHUNKS = transitions.SHARED, 1
    steps = {"encoder": made._encoder_step, "days": made._days_step, "adversarial": made._adversarial_step}
    out = []
    for stage, step in steps.items():
        made._enter()
        for number in range(WARMUP + STEPS):
            if number == WARMUP:
                runtime.messages, runtime.bytes, started = 0, 0, time.perf_counter()
            # Every step ends with its figures on the host, so the clock needs no further synchronisation with the GPU.
            step()
            made.state.series_seen += share
        seconds = (time.perf_counter() - started) / STEPS
        out.append((stage, runtime.messages // STEPS, runtime.bytes // STEPS, seconds))
        made.state.stage, made.state.series_seen = made.state.stage + 1, 0
    return out


def exchange(size: int, messages: int, gpus: int, between_nodes: float) -> float:
    """Return the seconds of all-reduces of ``size`` bytes: a ring's volume over its slowest link, a tree's hops."""
    speed = INSIDE if gpus <= NODE else min(INSIDE, between_nodes)
    return 2 * (gpus - 1) / gpus * size / speed + messages * 2 * math.log2(gpus) * LATENCY


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="large", choices=recipes.RECIPES)
    parser.add_argument("--share", type=int, default=32, help="series of one GPU in a step")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where the step is measured")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(given.recipe, given.share, given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "one core"
    print(f"recipe {given.recipe}, {given.share} series for each GPU, step measured on {name}")
    head = ["stage", "messages", "MB", "step", "out of a node"]
    print("| " + " | ".join([*head, *(f"{n} GPUs" for n in GPUS)]) + " |")
    print("|" + "---|" * (len(head) + len(GPUS)))
    for stage, messages, size, seconds in rows:
        for link, speed in LINKS.items():
            left = [f"{seconds / (seconds + exchange(size, messages, n, speed)):.1%}" for n in GPUS]
            shown = [stage, str(messages), f"{size / 1e6:.1f}", f"{1000 * seconds:.1f} ms", link]
            print("| " + " | ".join([*shown, *left]) + " |")


if __name__ == "__main__":
    main()
