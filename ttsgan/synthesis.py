"""Generation of new series, in physical units, from conditions and noise.

Each chunk of series has its own seed, so that the set does not depend on which worker draws which chunk.

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
"""Units that starts are rounded down to, in seconds; tried in order until enough entities share a start."""
MONDAY = 4 * calendar.DAY_SECONDS
"""The Monday from which weeks are counted, in seconds since 1970."""


@dataclass(frozen=True)
class Plan:
    """Group and start of each synthetic series.

    Attributes
    ----------
    group : ndarray (B,), int64
        Group whose condition the series gets; in random order, with groups in proportion to their size.
    start : ndarray (B,), datetime64[s]
        Start of the series, drawn among those of `shared_starts`.
    """

    group: NDArray
    start: NDArray

    def __len__(self) -> int:
        return len(self.group)

    def chunk(self, index: int, size: int) -> "Plan":
        """Return the part of the plan for chunk ``index`` of ``size`` series."""
        rows = slice(index * size, (index + 1) * size)
        return Plan(self.group[rows], self.start[rows])


def shared_starts(starts: NDArray, entities: NDArray, fewest: int) -> NDArray:
    """Return a start (M,) for new series in place of that of each training series.

    A rare start, such as the day on which a meter was installed, reveals who is in the training data. So starts are
    rounded down to days, Mondays, and Mondays 4 and 12 weeks apart, until at least ``fewest`` entities share one. The
    remaining starts are replaced by the nearest shared one. If none is shared, all are replaced by the Monday on or
    before the median start.

    Parameters
    ----------
    starts : ndarray (M,), datetime64[s]
    entities : ndarray (M,), str
    fewest : int
        Entities that must share a start: ``cluster.min_group_size``.
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
    """Shuffle the groups of ``allocation`` and draw a start among ``starts`` for each series.

    The order also depends on the conditions ``cond`` (G, Z), which are not released. If it depended on the published
    seed alone, anybody could determine which synthetic series share a condition.
    """
    rng = np.random.default_rng(seed_of(seed, "plan", digest_of(np.ascontiguousarray(cond))))
    return Plan(rng.permutation(allocation), rng.choice(np.sort(starts), size=len(allocation)))


class Synthesizer:
    """Sampler of new series from trained networks.

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
        # The seed also depends on the scaler, which is not released: whoever could draw the same noise from the
        # published seed could recover the distribution of training households from the series.
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
            Index of the chunk, which determines the seed; the same arguments give the same series.

        Returns
        -------
        ndarray (B, C, L), float32
            Series in physical units, without missing values.
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
