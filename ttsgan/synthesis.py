"""New series from conditions and noise, back in physical units.

Each chunk of series is drawn from a seed of its own, so that the set is the same whoever draws which chunk.

Axis letters: B series, C channels, L points, Z latent, H household numbers, N tokens, P values of a token.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ttsgan.data import calendar
from ttsgan.data.scaling import SeriesScaler
from ttsgan.drawing import draw_scores
from ttsgan.models.networks import Networks
from ttsgan.models.patching import unpatchify
from ttsgan.seeds import digest_of, seed_of

GRAINS = (1, *(days * calendar.DAY_SECONDS for days in (1, 7, 28, 84)))
"""Seconds that starts are rounded down to, until enough entities share one."""
MONDAY = 4 * calendar.DAY_SECONDS
"""A moment, in seconds since 1970, from which weeks are counted."""


@dataclass(frozen=True)
class Plan:
    """What each synthetic series is drawn from.

    Attributes
    ----------
    group : ndarray (B,), int64
        Group whose condition it gets; groups in random order, in proportion to their size.
    start : ndarray (B,), datetime64[s]
        Start, drawn among those that enough training entities share.
    """

    group: NDArray
    start: NDArray

    def __len__(self) -> int:
        return len(self.group)

    def chunk(self, index: int, size: int) -> "Plan":
        """Return the part of the plan that chunk ``index`` of ``size`` series draws."""
        rows = slice(index * size, (index + 1) * size)
        return Plan(self.group[rows], self.start[rows])


def shared_starts(starts: NDArray, entities: NDArray, fewest: int) -> NDArray:
    """Return the start (M,) that a new series may have in the place of each training series.

    A start that few share tells who trained: the day on which a meter was put in. So starts are rounded down to days,
    Mondays, and Mondays 4 and 12 weeks apart, until at least ``fewest`` entities share one. What is left takes the
    nearest start of the others; where no start is shared, all take the Monday before the one in the middle.

    Parameters
    ----------
    starts : ndarray (M,), datetime64[s]
    entities : ndarray (M,), str
    fewest : int
        Entities, ``cluster.min_group_size``.
    """
    seconds = starts.astype("datetime64[s]").astype(np.int64)
    owner = np.unique(entities, return_inverse=True)[1]
    out, open_M = seconds.copy(), np.ones(len(seconds), dtype=bool)
    for grain in GRAINS:
        floor = seconds - (seconds - MONDAY) % grain
        pairs = np.unique(np.stack([floor, owner])[:, open_M], axis=1)
        known, count = np.unique(pairs[0], return_counts=True)
        enough = open_M & np.isin(floor, known[count >= fewest])
        out[enough] = floor[enough]
        open_M &= ~enough
    middle = np.sort(seconds)[len(seconds) // 2]
    kept = np.unique(out[~open_M]) if not open_M.all() else np.array([middle - (middle - MONDAY) % GRAINS[2]])
    out[open_M] = kept[np.abs(seconds[open_M, None] - kept).argmin(axis=1)]
    return out.astype("datetime64[s]")


def make_plan(cond: NDArray[np.float32], allocation: NDArray, starts: NDArray, seed: int) -> Plan:
    """Shuffle the groups that ``allocation`` gives to each series and draw starts among ``starts``.

    The order depends on the conditions ``cond`` (G, Z) too, which are not released: from the published seed alone
    anybody could tell which synthetic series share a condition.
    """
    rng = np.random.default_rng(seed_of(seed, "plan", digest_of(np.ascontiguousarray(cond))))
    return Plan(rng.permutation(allocation), rng.choice(np.sort(starts), size=len(allocation)))


class Synthesizer:
    """Draws series from trained networks.

    Parameters
    ----------
    networks : Networks
        Averaged weights; put into evaluation mode here.
    scaler : SeriesScaler
        The scaler that the networks were trained with.
    seed : int
    """

    def __init__(self, networks: Networks, scaler: SeriesScaler, seed: int) -> None:
        self.networks = networks.eval().requires_grad_(False)
        self.scaler, self.device = scaler, networks.device
        # Who could draw the same noise, from the seed that is published, could read the law of training households off
        # the series: the draws depend on the scaler too, which is not released.
        self.seed = seed_of(seed, "draws", digest_of(scaler.to_bytes()))

    @torch.no_grad()
    def draw(self, cond: NDArray[np.float32], starts: NDArray, chunk: int) -> NDArray[np.float32]:
        """Draw one series for each condition.

        Parameters
        ----------
        cond : ndarray (B, Z), float32
            Conditions: means of latents, as the encoder gives them.
        starts : ndarray (B,), datetime64
        chunk : int
            Names the seed; the same chunk with the same arguments gives the same series.

        Returns
        -------
        ndarray (B, C, L), float32
            Physical units, complete.
        """
        networks, shape = self.networks, self.networks.shape
        generator = torch.Generator().manual_seed(seed_of(self.seed, "chunk", chunk))
        cond_BZ = networks.standard_latents(torch.from_numpy(cond).float().to(self.device))
        features = calendar.features_of(starts, shape.num_tokens, shape.patch_size * self.scaler.step_seconds)
        calendar_BNF = torch.from_numpy(features).to(self.device)
        numbers = networks.draw_household(cond_BZ, generator)
        base = None
        if networks.noise_kind == "prior":
            base = draw_scores(networks, self.scaler, cond_BZ, numbers, starts, generator)
        noise = networks.generator.draw_noise(len(cond), generator, self.device)
        written = networks.write_scores(noise, cond_BZ, numbers, calendar_BNF, base)
        scores = unpatchify(written.float(), shape.channels, shape.length).cpu().numpy()
        return self.scaler.inverse(scores, numbers.cpu().numpy())
