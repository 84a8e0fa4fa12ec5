"""Work between two stages: make conditions of latents, sample the prior, choose the share of the correction.

Functions that take a `Runtime` are collective: all workers call them at the same point and end with the same tensors.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttsgan import clustering
from ttsgan.config import SHARED
from ttsgan.data.scaling import SeriesScaler
from ttsgan.drawing import draw_scores
from ttsgan.models.networks import Networks
from ttsgan.models.patching import unpatchify
from ttsgan.seeds import seed_of
from ttsgan.training.dataset import TrainSet
from ttsgan.training.runtime import Runtime
from ttsgan.training.state import TrainState

Score = Callable[[NDArray[np.float32], NDArray], float]
"""Scores series (B, C, T) in physical units with their starts (B,): a smaller score is closer to real series."""

GROUPINGS = 4
"""Groupings that the conditions of training series are drawn from, so that no single grouping is learned."""
GROUPED = 5_000
"""Most entities grouped together for training; more are split at random into parts: time grows quadratically."""
POOL_CHUNK, POOL_CHUNKS = 128, 4
"""Size of the pool of prior samples: series per chunk, and chunks."""
CORRECTIONS = (0.0, 0.5, 1.0)
"""Shares of the generator's correction that are compared at the end; the first is no correction."""
EARNS = 0.05
"""Relative improvement over no correction that the best share needs to be kept: less may be chance."""


@torch.no_grad()
def encode_all(networks: Networks, data: TrainSet, runtime: Runtime, chunk: int = 16) -> Tensor:
    """Return the posterior means (M, Z) of all training series; each worker encodes its share. Collective."""
    count = len(data)
    share = -(-count // runtime.world_size)
    mine = torch.arange(runtime.rank * share, (runtime.rank + 1) * share) % count
    parts, turns = [], mine.split(chunk)
    for rows, following in zip(turns, (*turns[1:], mine[:0]), strict=True):
        data.ahead(following, ("scores", "observed"))
        numbers = networks.standard_numbers(data.numbers[rows])
        parts.append(networks.encoder(data.scores[rows], data.observed[rows], data.calendar_of(rows), numbers).mu)
    return runtime.gather(torch.cat(parts))[:count]


def make_conditions(state: TrainState, data: TrainSet, runtime: Runtime) -> None:
    """Encode the series, group them `GROUPINGS` times, store each series' conditions, and fit the household model."""
    latents = encode_all(state.average, data, runtime)
    runtime.broadcast([latents])
    for networks in (state.networks, state.average):
        networks.fit_latents(latents)
        # Workers on another kind of machine may round their sums differently.
        runtime.broadcast([networks.latent_mean, networks.latent_std])
    cond = _conditions(state, data, latents, runtime)
    state.drawn["cond"] = torch.stack([state.networks.standard_latents(of_one) for of_one in cond])
    seed = seed_of(state.config.seed, "household")
    owners = torch.from_numpy(np.unique(data.entities, return_inverse=True)[1])
    household = state.networks.household
    if runtime.rank == 0:
        household.fit(data.numbers, state.drawn["cond"], owners, seed, torch.from_numpy(data.kinds))
    runtime.broadcast(list(household.buffers()))
    state.average.household.load_state_dict(household.state_dict())


def _conditions(state: TrainState, data: TrainSet, latents: Tensor, runtime: Runtime) -> Tensor:
    """Return the condition (G, M, Z) that each grouping gives each series; workers share the groupings."""
    codes = np.unique(data.entities, return_inverse=True)[1]
    count = int(codes.max()) + 1
    # Each part must have enough entities for two groups.
    parts = max(1, min(-(-count // GROUPED), count // (2 * state.config.cluster.min_group_size)))
    cond = torch.zeros(GROUPINGS, *latents.shape, device=latents.device)
    jobs = [(index, part) for index in range(GROUPINGS) for part in range(parts)]
    for index, part in jobs[runtime.rank :: runtime.world_size]:
        seed = seed_of(state.config.seed, "grouping", index)
        dealt = np.random.default_rng(seed).permutation(count) % parts
        rows = np.flatnonzero(dealt[codes] == part)
        entities, of_part = data.entities[rows], latents.cpu().numpy()[rows]
        groups = clustering.form_groups(entities, of_part, data.level[rows], state.config.cluster, seed)
        cond[index, torch.from_numpy(rows)] = torch.from_numpy(groups.condition_of(entities)).to(cond)
    # Each condition is zero on all workers but one: the mean times the number of workers is their sum.
    runtime.mean([cond])
    return cond * runtime.world_size


def draw_pool(state: TrainState, data: TrainSet, scaler: SeriesScaler, runtime: Runtime) -> None:
    """Fill the pool: sample household numbers and series from the averaged prior, `SHARED` for each condition."""
    chunks = -(-POOL_CHUNKS // runtime.world_size)
    parts: dict[str, list[Tensor]] = {"cond": [], "numbers": [], "start_index": [], "base": []}
    for chunk in range(runtime.rank * chunks, (runtime.rank + 1) * chunks):
        generator = torch.Generator().manual_seed(seed_of(state.config.seed, "pool", chunk))
        anchors = torch.randint(len(data), (POOL_CHUNK // SHARED,), generator=generator).repeat_interleave(SHARED)
        anchors = anchors.to(data.scores.device)
        grouping = chunk % GROUPINGS
        cond, starts = state.drawn["cond"][grouping, anchors], data.starts[anchors.cpu()]
        numbers = state.average.draw_household(cond, generator)
        parts["cond"].append(cond)
        parts["numbers"].append(numbers)
        parts["start_index"].append(data.start_index[anchors])
        if state.config.generator.noise == "prior":
            parts["base"].append(draw_scores(state.average, scaler, cond, numbers, starts, generator))
    for name, tensors in parts.items():
        if tensors:
            # Equal numbers of chunks per worker may give more than needed.
            state.drawn[f"pool_{name}"] = runtime.gather(torch.cat(tensors))[: POOL_CHUNK * POOL_CHUNKS]


@torch.no_grad()
def pool_values(state: TrainState, data: TrainSet, scaler: SeriesScaler, count: int) -> tuple[NDArray, NDArray]:
    """Return ``count`` series (B, C, T) from the averaged generator, in physical units, and their starts."""
    rows = torch.linspace(0, len(state.drawn["pool_cond"]) - 1, count).round().long()
    index = state.drawn["pool_start_index"][rows]
    generator = torch.Generator().manual_seed(seed_of(state.config.seed, "pool values"))
    noise = state.average.generator.draw_noise(len(rows), generator, index.device)
    base = state.drawn["pool_base"][rows] if "pool_base" in state.drawn else None
    numbers = state.drawn["pool_numbers"][rows]
    scores = state.average.write_scores(noise, state.drawn["pool_cond"][rows], numbers, data.calendar[index], base)
    return _in_units(scores, numbers, data, scaler), np.unique(data.starts)[index.cpu().numpy()]


@torch.no_grad()
def prior_values(state: TrainState, data: TrainSet, scaler: SeriesScaler, count: int) -> tuple[NDArray, NDArray]:
    """Return ``count`` series (B, C, T) from the averaged prior, in physical units, and their starts."""
    rows = torch.linspace(0, len(data) - 1, count).round().long()
    cond, starts = state.drawn["cond"][0, rows.to(data.scores.device)], data.starts[rows.numpy()]
    generator = torch.Generator().manual_seed(seed_of(state.config.seed, "prior values"))
    numbers = state.average.draw_household(cond, generator)
    scores = draw_scores(state.average, scaler, cond, numbers, starts, generator)
    return _in_units(scores, numbers, data, scaler), starts


def _in_units(scores: Tensor, numbers: Tensor, data: TrainSet, scaler: SeriesScaler) -> NDArray[np.float32]:
    scores_BCT = unpatchify(scores.float(), data.shape.channels, data.shape.length).cpu().numpy()
    return scaler.inverse(scores_BCT, numbers.cpu().numpy())


def choose_correction(
    state: TrainState, data: TrainSet, scaler: SeriesScaler, runtime: Runtime, score: Score | None
) -> dict[str, float]:
    """Set the share of the correction whose series score best, or 0 if it gains less than `EARNS`; return all scores.

    Rank 0 computes the scores. Without ``score``, or with white noise, the share is 1.
    """
    figures: dict[str, float] = {}
    chosen = torch.ones((), device=runtime.device)
    if score is not None and state.config.generator.noise == "prior" and runtime.rank == 0:
        for share in CORRECTIONS:
            state.average.correction.fill_(share)
            figures[f"score/correction_{share:g}"] = score(*pool_values(state, data, scaler, 256))
        scores = dict(zip(CORRECTIONS, figures.values(), strict=True))
        best, none = min(CORRECTIONS, key=scores.__getitem__), CORRECTIONS[0]
        chosen.fill_(best if scores[best] <= (1 - EARNS) * scores[none] else none)
    runtime.broadcast([chosen])
    for networks in (state.networks, state.average):
        networks.correction.copy_(chosen)
    return {**figures, "correction": float(chosen)}
