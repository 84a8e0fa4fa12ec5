"""A1, copying: find synthetic series that are closer to a training series than chance explains.

Axes: n series, C channels, L time steps, k candidates, F frequencies.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from ttsgan.evaluation.gate import CONTROL_ERROR, COPIES_ERROR, FAIL_ERROR, Thresholds, line
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.neighbours import merge_nearest, nearest
from ttsgan.evaluation.stats import clopper_pearson_lower, clopper_pearson_upper, trials_to_bound
from ttsgan.evaluation.views import Views

NUM_CANDIDATES = 50
SPECTRUM_WIDTH = 512
SHIFT_DAYS = 7
SERIES_HELD = 4096
"""Number of real series whose representation is in memory at a time; the result does not depend on it."""
_TINY = 1e-9

Chosen = tuple[Judged, np.ndarray]
"""Real series, and the rows that belong to the set."""
View = Callable[[Judged], np.ndarray]
"""Function that maps series to a representation, (n, D)."""


def ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Divide distances; 0 / 0 is 1 (no evidence)."""
    return (first + _TINY) / (second + _TINY)


@dataclass(frozen=True)
class CopyDistances:
    """Distances of synthetic series to their nearest real neighbours, relative to their own variation.

    Parameters
    ----------
    train, peer, holdout, reference : dict of str to ndarray of shape (n,)
        Nearest neighbour among all training series; among a training subset as large as a holdout half; among each of
        the two holdout halves. Keys are representations; with several channels there is one for all channels jointly
        and one for each channel ("raw, channel 1").
    """

    train: dict[str, np.ndarray]
    peer: dict[str, np.ndarray]
    holdout: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "CopyDistances":
        """Return the distances of the chosen synthetic series."""
        return CopyDistances(*({key: value[rows] for key, value in side.items()} for side in self.sides))

    @property
    def sides(self) -> tuple[dict[str, np.ndarray], ...]:
        """The four dictionaries, in the order of the fields."""
        return self.train, self.peer, self.holdout, self.reference


@dataclass(frozen=True)
class CopyFlags:
    """Which synthetic series are near-copies (soft) and literal copies (hard) of training series and of the control.

    All four are bool arrays of shape (n,).
    """

    soft: np.ndarray
    hard: np.ndarray
    soft_control: np.ndarray
    hard_control: np.ndarray


class CopySearch:
    """Attack A1: measure distances of synthetic series to training and holdout series.

    Parameters
    ----------
    views : Views
    train, holdout, reference : Judged
        Training series, and two entity-disjoint halves of the holdout; aligned and gap-free.
    rng : numpy.random.Generator
        Chooses the training subset that the control is measured against.

    Notes
    -----
    Nearest neighbours are exact in *raw* and *profile*. In *shifted shape* (best of all shifts within 7 days) the 50
    nearest by amplitude spectrum, which no shift changes, are compared exactly at every shift. Several channels are
    searched jointly and each separately: a generator may copy one and draw the other.
    """

    def __init__(
        self, views: Views, train: Judged, holdout: Judged, reference: Judged, rng: np.random.Generator
    ) -> None:
        self.views = views
        chosen = np.zeros(len(train), bool)
        chosen[rng.permutation(len(train))[: max(len(holdout), 1)]] = True
        self.folds = len(train) / max(1, min(len(train), len(holdout)))
        # Row numbers rather than copies, because there may be many training series.
        self.sets: dict[str, Chosen] = {
            "peer": (train, np.flatnonzero(chosen)), "rest": (train, np.flatnonzero(~chosen)),
            "holdout": (holdout, np.arange(len(holdout))), "reference": (reference, np.arange(len(reference))),
        }  # fmt: skip
        self.channels = train.values.shape[1]
        self.max_shift = min(SHIFT_DAYS * train.steps_per_day, train.values.shape[2] // 4)

    def _spectrum(self, shape: np.ndarray, channels: int) -> np.ndarray:
        """Return amplitude spectra of the low frequencies, which no shift changes; shape (n, C * width)."""
        amplitude = np.abs(fft.rfft(shape.reshape(len(shape), channels, -1), axis=-1))
        width = max(16, SPECTRUM_WIDTH // channels)
        return np.ascontiguousarray(amplitude[..., 1 : width + 1].reshape(len(shape), -1))

    def _shifted(
        self, shape: np.ndarray, real: Chosen, candidates: np.ndarray, view: View, channels: int
    ) -> np.ndarray:
        """Return the smallest relative distance to the candidates (n, k) among real series, over all shifts."""
        judged, rows = real
        out = np.empty(len(shape))
        for start in range(0, len(shape), 32):
            found = candidates[start : start + 32]
            unique, inverse = np.unique(found, return_inverse=True)
            pairs = inverse.reshape(found.shape)
            both = shape[start : start + 32], view(judged.take(rows[unique]))
            out[start : start + 32] = self._best_shift(*(x.reshape(len(x), channels, -1) for x in both), pairs)
        return out

    def _best_shift(self, a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Return for each series of ``a`` (n, C, L) the smallest distance to its ``pairs`` in ``b`` over all shifts.

        The squared distance at a shift is ``|a - b|^2`` over the overlapping steps, divided by the mean energy of both
        there, or by half the mean energy of both over all steps where that is larger (so that two empty stretches do
        not match).
        """
        top = self.max_shift
        size = fft.next_fast_len(a.shape[-1] + top, real=True)
        spectra_a, spectra_b = fft.rfft(a, n=size, axis=-1), fft.rfft(b, n=size, axis=-1).conj()
        (head_a, tail_a, total_a), (head_b, tail_b, total_b) = _edge_energy(a, top), _edge_energy(b, top)
        best = np.empty(len(a))
        for row, chosen in enumerate(pairs):
            product = (spectra_a[row] * spectra_b[chosen]).sum(1)
            cross = fft.irfft(product, n=size, axis=-1)
            cross = np.concatenate([cross[:, : top + 1], cross[:, size - top :][:, ::-1]], axis=1)
            energy_a = total_a[row] - np.concatenate([head_a[row], tail_a[row, 1:]])
            energy_b = total_b[chosen, None] - np.concatenate([tail_b[chosen], head_b[chosen, 1:]], axis=1)
            whole = (total_a[row] + total_b[chosen, None]) / 2
            overlap = energy_a + energy_b
            # Two constant channels have no energy at all.
            best[row] = ((overlap - 2 * cross) / np.maximum(np.maximum(overlap, whole) / 2, _TINY)).min()
        return np.sqrt(np.maximum(best, 0))

    def search(self, synthetic: Judged) -> CopyDistances:
        """Search the nearest neighbours of a block of synthetic series (aligned and gap-free) in all real sets."""
        return self._distances(synthetic, self._present())

    def chance(self) -> CopyDistances:
        """Search the nearest neighbours of the second holdout half in the training series and in the first half.

        This shows which distances chance produces for series that are nobody's copies; it is used where the synthetic
        series are themselves holdout series. The training subset takes the place of the second half.
        """
        mine = self._distances(self.sets["reference"][0], self._present(but="reference"))
        return CopyDistances(mine.train, mine.peer, mine.holdout, mine.peer)

    def _distances(self, synthetic: Judged, sets: dict[str, Chosen]) -> CopyDistances:
        found = self._of_channels(synthetic, sets, slice(0, self.channels))
        for channel in range(self.channels if self.channels > 1 else 0):
            mine = self._of_channels(synthetic, sets, slice(channel, channel + 1))
            # A constant channel, such as that of a home without gas, equals any other constant channel.
            still = synthetic.values[:, channel].std(-1) == 0
            for name, distances in mine.items():
                found[name] |= {f"{key}, channel {channel}": np.where(still, 1.0, d) for key, d in distances.items()}
        train = {
            key: np.minimum(value, found["rest"][key]) if found["rest"] else value
            for key, value in found["peer"].items()
        }
        return CopyDistances(train, found["peer"], found["holdout"], found["reference"])

    def _of_channels(
        self, synthetic: Judged, sets: dict[str, Chosen], channels: slice
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return the distances to each real set by representation, for the given channels jointly."""
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.sets}
        views, count = Views(self.views.unit_scale[channels, 0]), channels.stop - channels.start

        def view(of: View) -> View:
            return lambda part: of(replace(part, values=part.values[:, channels]))

        def relative(of: View, name: str) -> None:
            mine = view(of)(synthetic)
            own = np.maximum(mine.std(1), 1e-6) * np.sqrt(mine.shape[1])
            for key, real in sets.items():
                found[key][name] = _nearest(mine, real, view(of), 1)[0][:, 0] / own

        relative(views.raw, "raw")
        shape = view(views.shape)
        mine = shape(synthetic)
        spectrum = self._spectrum(mine, count)
        for key, real in sets.items():
            candidates = _nearest(spectrum, real, lambda part: self._spectrum(shape(part), count), NUM_CANDIDATES)[1]
            found[key]["shifted shape"] = self._shifted(mine, real, candidates, shape, count)
        del mine
        relative(views.profile, "profile")
        return found

    @staticmethod
    def join(parts: list[CopyDistances]) -> CopyDistances:
        """Concatenate the distances of the blocks."""
        sides = zip(*(part.sides for part in parts), strict=True)
        return CopyDistances(
            *({key: np.concatenate([part[key] for part in side]) for key in side[0]} for side in sides)
        )

    def _present(self, but: str = "") -> dict[str, Chosen]:
        return {name: real for name, real in self.sets.items() if len(real[1]) and name != but}


def _nearest(mine: np.ndarray, real: Chosen, view: View, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and positions of the k nearest real series (all if fewer) in a representation.

    Only `SERIES_HELD` real series are in this representation at a time; otherwise every worker that searches a block
    would hold all training series several times over.
    """
    judged, rows = real
    begins = range(0, len(rows), SERIES_HELD)
    parts = [nearest(mine, view(judged.take(rows[i : i + SERIES_HELD])), min(k, len(rows))) for i in begins]
    return merge_nearest(parts, begins)


def _edge_energy(x: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the energy of the first and of the last 0..top steps, (n, top + 1), and the total; channels are summed."""
    zero = np.zeros((len(x), 1), np.float32)
    head, tail = (
        np.concatenate([zero, np.cumsum((edge**2).sum(1), axis=1)], axis=1)
        for edge in (x[..., :top], x[..., ::-1][..., :top])
    )
    return head, tail, np.einsum("ncl,ncl->n", x, x)


def null_minimum(found: CopyDistances, literal: float, chance: Callable[[], CopyDistances]) -> dict[str, float]:
    """Return, per representation, the smallest ratio of distances to the two holdout halves: what chance produces.

    Synthetic series that are themselves literally close (below `literal`) to a holdout series are excluded; otherwise
    one twin would blind the whole search. Where they are more than half of the set, real series (`chance`) replace it.
    """
    lowest = {}
    for key in found.holdout:
        first, second = found.holdout[key], found.reference[key]
        apart = np.minimum(first, second) >= literal
        if 2 * apart.sum() < len(apart):
            real = chance()
            first, second = real.holdout[key], real.reference[key]
            apart = np.ones(len(first), bool)
        quotient = ratio(first[apart], second[apart])
        lowest[key] = float(min(quotient.min(), (1 / quotient).min()))
    return lowest


def copy_flags(
    found: CopyDistances, lowest: dict[str, float], *, literal: float, soft: float, hard: float
) -> CopyFlags:
    """Flag near-copies and literal copies.

    Parameters
    ----------
    found : CopyDistances
    lowest : dict of str to float
        Output of `null_minimum`.
    literal : float
        Relative distance below which a series can be a literal copy.
    soft, hard : float
        A near-copy (literal copy) has a ratio d(train) / d(holdout) below this times the null minimum.

    Returns
    -------
    CopyFlags
        Soft: flagged in any representation. Hard: flagged in raw or shifted shape, because a similar profile does not
        prove a literal copy. Hard flags are soft ones too.
    """
    num = len(found.train["raw"])
    flags = [np.zeros(num, bool) for _ in range(4)]
    for key in found.train:
        train, peer, holdout, reference = (
            side[key] for side in (found.train, found.peer, found.holdout, found.reference)
        )
        pairs = (train, np.minimum(holdout, reference)), (holdout, np.minimum(peer, reference))
        for index, (own, other) in enumerate(pairs):
            quotient = ratio(own, other)
            flags[2 * index] |= quotient < soft * lowest[key]
            if not key.startswith("profile"):
                flags[2 * index + 1] |= (own < literal) & (quotient < hard * lowest[key])
    return CopyFlags(flags[0] | flags[1], flags[1], flags[2] | flags[3], flags[3])


def plant(train: Judged, count: int, rng: np.random.Generator) -> Judged:
    """Return copies of training series as a careless generator would make them.

    A quarter each: literal; shifted by up to 7 days; scaled by 0.8 to 1.25; with noise of 5 % of the series' own
    standard deviation.
    """
    chosen = train.take(rng.choice(len(train), size=count, replace=count > len(train)))
    values = chosen.values.copy()
    days = min(SHIFT_DAYS, values.shape[2] // (4 * train.steps_per_day))
    for row in range(count):
        kind = row % 4
        if kind == 1 and days:
            step = int(rng.integers(1, days + 1)) * int(rng.choice([-1, 1])) * train.steps_per_day
            values[row] = np.roll(values[row], step, axis=-1)
        elif kind == 2:
            values[row] *= rng.uniform(0.8, 1.25)
        elif kind == 3:
            spread = values[row].std(-1, keepdims=True)
            values[row] += (0.05 * spread * rng.standard_normal(values[row].shape)).astype(np.float32)
    return replace(chosen, values=values)


def copy_checks(flags: CopyFlags, folds: float, limits: Thresholds) -> list[dict]:
    """Judge A1; the control's bound is multiplied by `folds`, the size of training over that of the control's set."""
    num = len(flags.soft)

    def excess(hits: int, control: int) -> tuple[float, float]:
        low = clopper_pearson_lower(hits, num, 0.9 * FAIL_ERROR)
        low -= folds * clopper_pearson_upper(control, num, 0.1 * FAIL_ERROR)
        high = clopper_pearson_upper(hits, num, COPIES_ERROR) - clopper_pearson_lower(control, num, CONTROL_ERROR)
        return max(0.0, low), max(0.0, high)

    hard, control = int(flags.hard.sum()), int(flags.hard_control.sum())
    low, high = excess(hard, control)
    literal = line(
        "copying", "literal copies", "all",
        "Synthetic series that are training series, perhaps shifted by up to 7 days or rescaled. "
        "One is proof, unless the same happens against holdout series.",
        value=hard / num, low=low, high=high, threshold=0.0, needed=None,
    )  # fmt: skip
    proven = hard > 0 and (control == 0 or low > 0)
    literal |= {"passed": True if hard == 0 else False if proven else None}
    soft, control = int(flags.soft.sum()), int(flags.soft_control.sum())
    low, high = excess(soft, control)
    near = line(
        "copying", "near-copies beyond the control", "all",
        "Share of synthetic series much closer to a training series than chance explains, minus the same "
        "against holdout series.",
        value=max(0, soft - control) / num, low=low, high=high, threshold=limits.soft_copies,
        needed=trials_to_bound(0.0, limits.soft_copies, COPIES_ERROR),
    )  # fmt: skip
    return [literal, near]
