"""New series from conditions and noise, back in physical units.

Each chunk of series is drawn from a seed of its own, so that the set is the same whoever draws which chunk.

Axis letters: B series, C channels, L points, Z latent.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ttsgan.data import calendar
from ttsgan.data.scaling import SeriesScaler
from ttsgan.models.networks import Networks
from ttsgan.models.patching import patchify, unpatchify
from ttsgan.seeds import seed_of


@dataclass(frozen=True)
class Plan:
    """What each synthetic series is drawn from.

    Attributes
    ----------
    group : ndarray (B,), int64
        Group whose condition it gets; groups in random order, in proportion to their size.
    start : ndarray (B,), datetime64[s]
        Start, drawn among those of training series.
    """

    group: NDArray
    start: NDArray

    def __len__(self) -> int:
        return len(self.group)

    def chunk(self, index: int, size: int) -> "Plan":
        """Return the part of the plan that chunk ``index`` of ``size`` series draws."""
        rows = slice(index * size, (index + 1) * size)
        return Plan(self.group[rows], self.start[rows])


def make_plan(allocation: NDArray, starts: NDArray, seed: int) -> Plan:
    """Shuffle the groups that ``allocation`` gives to each series and draw starts among training's ``starts``."""
    rng = np.random.default_rng(seed_of(seed, "plan"))
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
        self.scaler, self.seed, self.device = scaler, seed, networks.device

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
        token_seconds, lead = shape.patch_size * self.scaler.step_seconds, networks.lead
        features = calendar.features_of(starts, shape.num_tokens, token_seconds, lead)
        calendar_BNF = torch.from_numpy(features).to(self.device)
        numbers = networks.draw_household(cond_BZ, generator)
        base = None
        if networks.noise_kind == "prior":
            residual = networks.draw_residual(cond_BZ, numbers, calendar_BNF, generator)
            scores = self.scaler.compose_scores(self._series(residual), numbers.cpu().numpy(), starts)
            base = patchify(torch.from_numpy(scores), shape.patch_size).to(self.device)
        noise = networks.generator.draw_noise(len(cond), generator, self.device)
        written = networks.write_scores(noise, cond_BZ, numbers, calendar_BNF[:, lead:], base)
        return self.scaler.inverse(self._series(written), numbers.cpu().numpy())

    def _series(self, tokens: torch.Tensor) -> NDArray[np.float32]:
        shape = self.networks.shape
        return unpatchify(tokens.float(), shape.channels, shape.length).cpu().numpy()
