"""Exact nearest neighbours at little more than the cost of matrix products, in parts that can be merged.

A float32 product cannot separate near-identical rows (``|a|^2 + |b|^2 - 2ab`` cancels), the very case that matters
here. So it only gives a *lower bound* of every squared distance, with its worst-case rounding error subtracted. Pairs
whose bound exceeds the k-th distance found so far are ruled out for certain; the few *open* pairs are measured by
direct subtraction in float64. A measured distance depends on its pair alone, so the result is identical, bit for bit,
for any block sizes and any split of the base into parts. Blocks where float32 leaves too many pairs open (many almost
equal series, as a collapsed generator draws them) are bounded again in float64.

Axes: q queries, b base rows, D dimensions, k neighbours, p pairs, g groups of columns.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import logsumexp

QUERY_BLOCK = 512
BASE_BLOCK = 4096
_DENSE = 32
"""More than one open pair per this many base rows is too many: a float64 product is cheaper than measuring them."""
_WORTH = 4
"""Open pairs of such queries per base row above which converting the base to float64 pays off."""
_FINE_BLOCK = 1024
"""Base rows per float64 product."""
_GROUPS = 256
_MEASURED_TOGETHER = 1 << 18
"""Number of pairs whose distances are held in memory before they are merged."""
_ELEMENTS = 1 << 17
"""Numbers of a float64 buffer that stays in the cache."""


def nearest(
    queries: np.ndarray,
    base: np.ndarray,
    k: int,
    *,
    exclude: np.ndarray | None = None,
    query_block: int = QUERY_BLOCK,
    base_block: int = BASE_BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest base rows of every query by Euclidean distance.

    Parameters
    ----------
    queries : ndarray of shape (q, D), float32
        Finite rows.
    base : ndarray of shape (b, D), float32
        Finite rows, b >= 1.
    k : int
        Neighbours wanted, >= 1; columns beyond the available rows hold distance inf and index -1.
    exclude : ndarray of shape (q,), int, optional
        Base row to exclude for each query (for instance itself); -1 excludes none.
    query_block, base_block : int
        Rows per matrix product. Memory is about ``4 * (query_block + base_block) * D + 5 * query_block * base_block``
        bytes (55 MB for D = 2190), and up to three times that for sets with many equal or almost equal rows.

    Returns
    -------
    tuple of ndarray
        Distances (q, k) float64, ascending, and indices (q, k) int64; ties go to the lower index. Neither depends on
        the block sizes.
    """
    centre = base.mean(0, dtype=np.float64).astype(np.float32)
    # Only later blocks have distances to compare with; a base of one block does not need this pass.
    square = _centred_squares(queries, centre) if len(base) > base_block else np.zeros(len(queries))
    search = _Search(centre, k, min(query_block, len(queries)), min(base_block, len(base)))
    distances, indices = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1, np.int64)
    for begin in range(0, len(base), base_block):
        search.take_base(base[begin : begin + base_block])
        for start in range(0, len(queries), query_block):
            rows = slice(start, start + query_block)
            own = None if exclude is None else exclude[rows] - begin
            for found in search.closer(queries[rows], square[rows], distances[rows, -1], own):
                known = distances[rows], indices[rows]
                distances[rows], indices[rows] = merge_nearest([known, found], [0, begin])
    return distances, indices


def merge_nearest(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], begins: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the neighbours found in parts of a base; identical, bit for bit, to one search of the whole base.

    Parameters
    ----------
    parts : sequence of (ndarray, ndarray)
        Distances and indices of shape (q, k) as `nearest` gives them; same queries, same k, any order.
    begins : sequence of int, optional
        Position of the first row of each part in the whole base, added to its indices; default: all are 0.

    Returns
    -------
    tuple of ndarray
        The k smallest by (distance, index): distances (q, k) float64 and indices (q, k) int64, as `nearest`.
    """
    k = parts[0][0].shape[1]
    begins = [0] * len(parts) if begins is None else begins
    distances = np.concatenate([distance for distance, _ in parts], axis=1)
    indices = np.concatenate(
        [np.where(index >= 0, index + begin, -1) for (_, index), begin in zip(parts, begins, strict=True)], axis=1
    )
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)


class _Search:
    """Search one base block and one query block at a time, in buffers that are allocated once.

    With a' = a - centre and b' = b - centre, the product of [-2a', |a'|, 1] and [b', -s|b'|, (1 - t)|b'|^2] is
    ``|a - b|^2 - |a'|^2`` minus its largest possible rounding error; s and t come from `_slack`.
    """

    def __init__(self, centre: np.ndarray, k: int, query_block: int, base_block: int) -> None:
        self.centre, self.k = centre, k
        width = len(centre) + 2
        self._query_buffer = np.empty((query_block, width), np.float32)
        self._base_buffer = np.empty((base_block, width), np.float32)
        self._bound_buffer = np.empty(query_block * base_block, np.float32)
        self._open_buffer = np.empty(query_block * base_block, bool)

    def take_base(self, rows: np.ndarray) -> None:
        """Prepare a block of the base; of identical rows, only the first k + 1 are kept."""
        bounds = self._base_buffer[: len(rows)]
        square = _fill_base(rows, self.centre, bounds)
        self.kept = _without_surplus(rows, square, self.k + 1)
        surplus = len(self.kept) < len(rows)
        self.rows, self.bounds = (rows[self.kept], bounds[self.kept]) if surplus else (rows, bounds)
        self.norm = np.sqrt(square[self.kept])

    def closer(
        self, queries: np.ndarray, square: np.ndarray, known: np.ndarray, own: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield tables of distances and indices (in the block), (r, k), of all rows that may be among the k nearest.

        ``square`` is ``|a'|^2`` and ``known`` the k-th distance so far, inf for none; both (r,) float64. ``own`` (r,)
        is the row of the block to exclude for each query; a row outside the block excludes none.
        """
        num, width = len(queries), len(self.rows)
        left = self._query_buffer[:num]
        norm = _fill_queries(queries, self.centre, left)
        bound = self._bound_buffer[: num * width].reshape(num, width)
        np.matmul(left, self.bounds.T, out=bound)
        rows, columns = self._own(own)
        bound[rows, columns] = np.inf
        # Larger than the float64 rounding error of measured distances.
        tiny = 4 * (len(self.centre) + 10) * np.finfo(np.float64).eps
        limit = known**2 * (1 + tiny) - square * (1 - tiny)
        if np.isinf(limit).any():
            limit = np.minimum(limit, self._reach(bound, norm, self.norm))
        is_open = self._open_buffer[: num * width].reshape(num, width)
        np.less_equal(bound, _up(limit)[:, None], out=is_open)
        count = np.count_nonzero(is_open, axis=1)
        crowded = np.flatnonzero(count > max(8 * self.k, width // _DENSE))
        if count[crowded].sum() > _WORTH * width:
            own = np.full(num, -1)
            own[rows] = columns
            is_open[crowded] &= self._finer(queries[crowded], limit[crowded], own[crowded])
        pairs = np.flatnonzero(is_open)
        for at in range(0, len(pairs), _MEASURED_TOGETHER):
            row, column = np.divmod(pairs[at : at + _MEASURED_TOGETHER], width)
            distance = _measured(queries, row, self.rows, column)
            yield _table(row, distance, self.kept[column], num, self.k)

    def _own(self, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the excluded pairs of query and column."""
        if own is None:
            return np.empty(0, int), np.empty(0, int)
        columns = np.minimum(np.searchsorted(self.kept, own), len(self.kept) - 1)
        rows = np.flatnonzero(self.kept[columns] == own)
        return rows, columns[rows]

    def _reach(self, bound: np.ndarray, norm: np.ndarray, base_norm: np.ndarray) -> np.ndarray:
        """Return an upper bound of the k-th smallest ``|a - b|^2 - |a'|^2`` of each query, (r,) float64.

        It comes from the smallest bound of each group of columns: k groups contain k different rows.
        """
        groups = min(bound.shape[1], max(_GROUPS, 8 * self.k))
        if groups < self.k:
            return np.full(len(bound), np.inf)
        smallest = _grouped(np.minimum, bound, groups).astype(np.float64)
        farthest = _grouped(np.maximum, base_norm[None], groups)[0]
        first, second = _slack(len(self.centre), bound.dtype)
        smallest += 2.001 * (first * norm[:, None] * farthest + second * farthest**2)
        return np.partition(smallest, self.k - 1, axis=1)[:, self.k - 1]

    def _finer(self, queries: np.ndarray, limit: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return which pairs stay open by float64 bounds, (r, columns) bool; ``own``: column to exclude, or -1."""
        left = np.empty((len(queries), len(self.centre) + 2))
        norm = _fill_queries(queries, self.centre, left)
        is_open = np.empty((len(queries), len(self.rows)), bool)
        for begin in range(0, len(self.rows), _FINE_BLOCK):
            part = slice(begin, begin + _FINE_BLOCK)
            right = np.empty((len(self.rows[part]), left.shape[1]))
            _fill_base(self.rows[part], self.centre, right)
            bound = left @ right.T
            inside = np.flatnonzero((own >= begin) & (own < begin + len(right)))
            bound[inside, own[inside] - begin] = np.inf
            limit = np.minimum(limit, self._reach(bound, norm, self.norm[part]))
            # Cap the limit at the largest finite number, so that excluded pairs (inf) do not pass.
            is_open[:, part] = bound <= np.minimum(limit, np.finfo(np.float64).max)[:, None]
        return is_open


def _grouped(function: np.ufunc, table: np.ndarray, groups: int) -> np.ndarray:
    """Reduce every `groups`-th column to one, (r, g), without a copy and in long vector operations."""
    width = table.shape[1]
    whole = width - width % groups
    out = function.reduce(table[:, :whole].reshape(len(table), -1, groups), axis=1)
    function(out[:, : width - whole], table[:, whole:], out=out[:, : width - whole])
    return out


def _slack(dimensions: int, dtype: np.dtype) -> tuple[float, float]:
    """Return s and t: a product in ``dtype``, summed in any order, has an error of at most s|a'||b'| + t|b'|^2.

    The error of a sum of n products is at most ``nu / (1 - nu)`` times the sum of their magnitudes, u the unit
    roundoff [1]_. Eight more products cover the rounding of the factors themselves.

    References
    ----------
    .. [1] N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. 2002, section 3.1.
    """
    small = (dimensions + 10) * float(np.finfo(dtype).eps) / 2
    gamma = small / (1 - small)
    return 2 * gamma / (1 - gamma), gamma


def _fill_queries(rows: np.ndarray, centre: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write [-2a', |a'|, 1] in ``out``; return |a'| (r,) float64, rounded up."""
    dimensions = len(centre)
    shifted = out[:, :dimensions]
    np.subtract(rows, centre, out=shifted, dtype=np.result_type(rows, centre, out), casting="same_kind")
    norm = np.sqrt(np.einsum("rd,rd->r", shifted, shifted).astype(np.float64))
    norm *= 1 + _slack(dimensions, out.dtype)[0]
    shifted *= -2
    out[:, dimensions], out[:, dimensions + 1] = norm, 1
    return norm


def _fill_base(rows: np.ndarray, centre: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write [b', -s|b'|, (1 - t)|b'|^2] in ``out``; return |b'|^2 (b,) float64."""
    dimensions = len(centre)
    square = _centred_squares(rows, centre, out)
    first, second = _slack(dimensions, out.dtype)
    out[:, dimensions], out[:, dimensions + 1] = -first * np.sqrt(square), (1 - second) * square
    return square


def _centred_squares(rows: np.ndarray, centre: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the squared distances of rows to the centre, (n,) float64; write the differences to ``out``, if given."""
    square = np.empty(len(rows))
    step = max(1, _ELEMENTS // len(centre))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        shifted = np.subtract(rows[part], centre, dtype=np.float64)
        if out is not None:
            out[part, : len(centre)] = shifted
        shifted *= shifted
        square[part] = shifted.sum(1)
    return square


def _without_surplus(rows: np.ndarray, square: np.ndarray, copies: int) -> np.ndarray:
    """Return ascending positions of rows, without those that have `copies` identical rows before them.

    Rows are compared only with the first row of the same ``square``; this suffices for sets that repeat few rows often.
    """
    _, group, count = np.unique(square, return_inverse=True, return_counts=True)
    kept = np.ones(len(rows), bool)
    for crowded in np.flatnonzero(count > copies):
        members = np.flatnonzero(group == crowded)
        identical = members[(rows[members] == rows[members[0]]).all(1)]
        kept[identical[copies:]] = False
    return np.flatnonzero(kept)


def _up(limit: np.ndarray) -> np.ndarray:
    """Round up to float32; infinity becomes the largest finite number, so that excluded pairs (inf) do not pass."""
    top = np.finfo(np.float32).max
    return np.nextafter(np.minimum(limit, top).astype(np.float32), top)


def _measured(queries: np.ndarray, row: np.ndarray, base: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return distances of pairs (p,), by subtraction in float64; each depends on its pair alone."""
    out = np.empty(len(row))
    step = max(1, _ELEMENTS // base.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        difference = base[column[part]].astype(np.float64)
        difference -= queries[row[part]]
        difference *= difference
        out[part] = difference.sum(1)
    return np.sqrt(out)


def _table(row: np.ndarray, distance: np.ndarray, index: np.ndarray, num: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort pairs (p,) into tables (num, k) of the smallest by (distance, index)."""
    distances, indices = np.full((num, k), np.inf), np.full((num, k), -1, np.int64)
    order = np.lexsort((index, distance, row))
    row, distance, index = row[order], distance[order], index[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    best = rank < k
    distances[row[best], rank[best]], indices[row[best], rank[best]] = distance[best], index[best]
    return distances, indices


def log_density(
    queries: np.ndarray,
    base: np.ndarray,
    bandwidth: float,
    *,
    query_block: int = QUERY_BLOCK,
    base_block: int = BASE_BLOCK,
) -> np.ndarray:
    """Return the logarithm of a Gaussian kernel density, up to a constant that depends on D and bandwidth alone.

    Parameters
    ----------
    queries : ndarray of shape (q, D), float
        Points, few dimensions (<= 32).
    base : ndarray of shape (b, D), float
        Sample that defines the density.
    bandwidth : float
        Standard deviation of the kernel, > 0.
    query_block, base_block : int
        Rows per block.

    Returns
    -------
    ndarray of shape (q,), float64
        Finite even far from the sample: the sum is computed in log space, so it does not underflow to 0.
    """
    queries = queries.astype(np.float64)
    out = np.empty(len(queries))
    for start in range(0, len(queries), query_block):
        rows = queries[start : start + query_block]
        total = np.full(len(rows), -np.inf)
        for begin in range(0, len(base), base_block):
            block = base[begin : begin + base_block].astype(np.float64)
            distance = np.maximum((rows**2).sum(1)[:, None] + (block**2).sum(1) - 2 * rows @ block.T, 0)
            total = np.logaddexp(total, logsumexp(-distance / (2 * bandwidth**2), axis=1))
        out[start : start + len(rows)] = total
    return out - np.log(len(base))


def merge_log_density(parts: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Merge the densities of parts of a sample; equal to `log_density` of the whole up to rounding.

    Parameters
    ----------
    parts : sequence of ndarray of shape (q,), float64
        `log_density` of the same queries, with the same bandwidth, for each part.
    counts : sequence of int
        Rows of each part, >= 1.

    Returns
    -------
    ndarray of shape (q,), float64
    """
    weights = np.log(np.asarray(counts, np.float64) / np.sum(counts))
    return logsumexp(np.stack(parts) + weights[:, None], axis=0)
