"""Features of whole series from untrained random networks: a convolution, and a transformer over days.

`classifiers` trains readouts on these features.

Axes: n series, C channels, T time steps of whole days, D days, S steps of a day, F features, B series of a block,
W days of a window, K kernels.

References
----------
Dempster, Petitjean, Webb 2020, "ROCKET", Data Min. Knowl. Disc. 34:1454 (random kernels, linear readout).
"""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ttsgan.evaluation.judged import Judged

WEEK = 7
TAPS = 9
KERNELS = 432
THRESHOLDS = (0.1, 0.37, 0.63, 0.9)
"""Thresholds of a kernel, as quantile levels of its responses to a few real series."""
MAX_POSITIONS = 2400
"""Largest number of positions at which a kernel is evaluated; longer series are strided."""
WINDOW_DAYS = 56
"""Length in days of the windows within which the transformer attends."""
WIDTH, HEADS, LAYERS = 64, 16, 2
SHARPNESS = 2.0
"""Factor on queries: without it, random attention is too even to distinguish days."""


def share_gaps(real: Judged, synthetic: Judged, donors: NDArray, rng: np.random.Generator) -> tuple[Judged, Judged]:
    """Add to every series the gaps of a random series of the other side, so that gaps do not separate the sides.

    Parameters
    ----------
    real, synthetic : Judged
    donors : ndarray of shape (m,), int
        Real series whose gaps are copied: those that the synthetic ones are compared with.
    rng : numpy.random.Generator
    """
    masks = np.isnan(real.values), np.isnan(synthetic.values)
    taken = rng.choice(donors, len(synthetic)), rng.integers(len(synthetic), size=len(real))
    out = []
    for judged, other, index in ((real, masks[1], taken[1]), (synthetic, masks[0], taken[0])):
        values = np.where(other[index], np.float32(np.nan), judged.values) if other.any() else judged.values
        out.append(replace(judged, values=values))
    return out[0], out[1]


def whole_days(both: Judged, num_real: int) -> NDArray[np.float32]:
    """Return series cut to the same whole days and scaled, shape (n, C, D, S).

    Values become ``sign(x) log1p(|x| / m)``, m = median of |x| > 0 over the real series, and are then standardised to
    mean 0 and deviation 1 over the real series, which are the first ``num_real``.
    """
    steps, length = both.steps_per_day, both.values.shape[2]
    offsets = both.first_midnights()
    if both.has_clock and length >= 4 * WEEK * steps:
        weekday = both.calendar(1)[0][:, 0]
        if (weekday != weekday[0]).any():
            offsets = offsets + (-weekday % WEEK) * steps
    count = (length - int(offsets.max())) // steps
    x = both.filled()
    x = np.stack([row[:, o : o + count * steps] for row, o in zip(x, offsets, strict=True)])
    size = np.abs(x[:num_real])
    for channel in range(x.shape[1]):
        positive = size[:, channel][size[:, channel] > 0]
        scale = float(np.median(positive)) if positive.size else 1.0
        x[:, channel] = np.sign(x[:, channel]) * np.log1p(np.abs(x[:, channel]) / scale)
    mean = x[:num_real].mean((0, 2), keepdims=True, dtype=np.float64)
    deviation = x[:num_real].std((0, 2), keepdims=True, dtype=np.float64)
    x = (x - mean.astype(np.float32)) / np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
    return x.reshape(*x.shape[:2], count, steps)


def convolve(days: NDArray[np.float32], num_real: int, seed: int) -> NDArray[np.float32]:
    """Describe series by the responses of random convolution kernels.

    Parameters
    ----------
    days : ndarray of shape (n, C, D, S), float32
        Output of `whole_days`.
    num_real : int
        Number of real series, which come first; a few of them set the thresholds.
    seed : int
        Draws the kernels.

    Returns
    -------
    ndarray of shape (n, F), float32
        For each kernel the share of positions above each threshold and the log of the root mean square; for each
        channel the share of values above 16 quantiles. Cost: about 4 CPU-milliseconds per series of 2,190 steps.
    """
    n, channels, _, steps = days.shape
    x = days.reshape(n, channels, -1)
    length = x.shape[2]
    rng = np.random.default_rng([seed, 1])
    sample = np.sort(rng.permutation(num_real)[:64])
    apart = {1, 2, 3, steps // 4, steps // 2, steps, 2 * steps, 7 * steps, 14 * steps, 28 * steps} - {0}
    dilations = sorted(d for d in apart if d == 1 or d * (TAPS - 1) < length)
    stride = -(-length // MAX_POSITIONS)
    while stride > 1 and math.gcd(stride, steps) > 1:
        stride += 1  # a common divisor with the day would visit a few hours only
    block = max(1, 16 * 2190 // (length * channels))
    columns = []
    for channel in range(channels):
        cuts = np.quantile(x[sample, channel], np.linspace(0.03, 0.97, 16)).astype(np.float32)
        columns.append(np.stack([np.count_nonzero(x[:, channel] > cut, axis=-1) for cut in cuts], -1) / length)
    for dilation in dilations:
        size = KERNELS // len(dilations)
        weights = rng.normal(size=(size, channels, TAPS)).astype(np.float32)
        # centred per channel: kernels see changes, the quantiles above see the level
        weights = (weights - weights.mean(2, keepdims=True)).reshape(size, -1)
        answers = _correlate(x[sample], weights, dilation, stride).swapaxes(0, 1).reshape(size, -1)
        limits = np.quantile(answers[:, :: max(1, answers.shape[1] // 8192)], THRESHOLDS, axis=1).astype(np.float32)
        parts = []
        for start in range(0, n, block):
            answers = _correlate(x[start : start + block], weights, dilation, stride)
            above = [np.count_nonzero(answers > limit[:, None], axis=-1) / answers.shape[-1] for limit in limits]
            power = np.log(np.sqrt(np.einsum("bkt,bkt->bk", answers, answers) / answers.shape[-1]) + 1e-3)
            parts.append(np.concatenate([*above, power], axis=1))
        columns.append(np.concatenate(parts))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _correlate(x: NDArray, weights: NDArray, dilation: int, stride: int) -> NDArray:
    """Return the responses (B, K, positions) of kernels (K, C * taps) to x (B, C, T), with zero padding."""
    reach = TAPS // 2 * dilation
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach)))
    taps = [padded[:, :, tap * dilation : tap * dilation + x.shape[2] : stride] for tap in range(TAPS)]
    return weights @ np.stack(taps, axis=2).reshape(len(x), weights.shape[1], -1)


def attend(days: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Describe series by the tokens of a random patch transformer.

    Parameters
    ----------
    days : ndarray of shape (n, C, D, S), float32
        Output of `whole_days`.
    seed : int
        Draws the weights.

    Returns
    -------
    ndarray of shape (n, F), float32
        Mean and log standard deviation over tokens of the embedding and, for each layer, of the attention output, the
        hidden layer and the residual stream; averaged over windows of days. Cost: about 7 CPU-milliseconds per series
        of 365 days.
    """
    n, channels, count, steps = days.shape
    network = _Network(channels * steps, seed)
    window = min(count, WINDOW_DAYS)
    starts = np.unique(np.linspace(0, count - window, -(-count // window)).round().astype(int))
    block = max(1, 4096 // (window * max(1, channels * steps // 64)))
    out = []
    with torch.inference_mode():
        for begin in range(0, n, block):
            rows = torch.from_numpy(days[begin : begin + block])
            parts = []
            for start in starts:
                x = rows[:, :, start : start + window]
                centred = x - x.mean((2, 3), keepdim=True)
                own = centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + 0.1)
                tokens = torch.cat([x, own], 1).transpose(1, 2).flatten(2)
                place = torch.arange(start, start + window, dtype=torch.float32)
                parts.append(network.describe(tokens, place, count))
            out.append(torch.stack(parts).mean(0))
    return torch.cat(out).numpy()


class _Network:
    """Two random attention layers over days; all weights are drawn from one seed, in the order of `__init__`."""

    def __init__(self, inputs: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.stem = self._linear(2 * inputs, 2 * WIDTH, 1.0), self._linear(2 * WIDTH, WIDTH)
        self.place = self._linear(16, WIDTH)
        self.layers = [
            [
                self._linear(*shape)
                for shape in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
            ]
            for _ in range(LAYERS)
        ]

    def _linear(self, inputs: int, outputs: int, offset: float = 0.3) -> tuple[Tensor, Tensor]:
        weight = torch.randn(outputs, inputs, generator=self.generator) * inputs**-0.5
        return weight, offset * torch.randn(outputs, generator=self.generator)

    def describe(self, tokens: Tensor, place: Tensor, count: int) -> Tensor:
        """Return features (B, F) of tokens (B, W, inputs) whose positions among ``count`` days are ``place`` (W,)."""
        cycles = place[:, None] / WEEK * torch.arange(1, 4), place[:, None] / count * torch.arange(0.5, 5.0)
        turns = 2 * math.pi * torch.cat(cycles, 1)
        position = functional.linear(torch.cat([turns.sin(), turns.cos()], 1), *self.place)
        x = functional.linear(functional.gelu(functional.linear(tokens, *self.stem[0])), *self.stem[1]) + 0.5 * position
        seen = [x]
        for to_heads, from_heads, widen, narrow in self.layers:
            heads = functional.linear(functional.layer_norm(x, (WIDTH,)), *to_heads)
            query, key, value = heads.view(*heads.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(SHARPNESS * query, key, value)
            mixed = functional.linear(mixed.transpose(1, 2).flatten(2), *from_heads)
            x = x + mixed
            hidden = functional.gelu(functional.linear(functional.layer_norm(x, (WIDTH,)), *widen))
            x = x + functional.linear(hidden, *narrow)
            seen += [mixed, hidden, x]
        means = [part.mean(1) for part in seen]
        return torch.cat(means + [part.std(1, correction=0).clamp_min(1e-3).log() for part in seen], 1)
