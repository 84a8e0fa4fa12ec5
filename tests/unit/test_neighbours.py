"""Neighbours are exact whatever float32 does, the same in any blocks and parts, and few pairs are measured."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ttsgan.evaluation import neighbours
from ttsgan.evaluation.neighbours import log_density, merge_log_density, merge_nearest, nearest


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def by_sorting(queries, base, k):
    """Sort all distances of float64 by (distance, index)."""
    full = cdist(queries.astype(np.float64), base.astype(np.float64))
    order = np.lexsort((np.broadcast_to(np.arange(len(base)), full.shape), full), axis=1)[:, :k]
    return np.take_along_axis(full, order, 1), order


def assert_exact(queries, base, k, **blocks):
    distances, indices = nearest(queries, base, k, **blocks)
    expected, order = by_sorting(queries, base, k)
    assert indices.tolist() == order.tolist()
    np.testing.assert_allclose(distances, expected, rtol=1e-12, atol=1e-12)
    return distances, indices


def families():
    """Pairs of queries and base that are hard for a product in float32."""
    rng = np.random.default_rng(5)

    def noisy(values, share):
        return (values * (1 + share * rng.normal(size=values.shape))).astype(np.float32)

    plain, many = normal((60, 300), 1), normal((700, 300), 2)
    offset = noisy(np.full((700, 300), 100.0), 1e-4)
    modes = many[rng.integers(0, 5, 700)]
    levels = np.exp(2 * rng.normal(size=(700, 1))) * np.exp(0.5 * rng.normal(size=(700, 300)))
    levels = levels.astype(np.float32)
    small = np.where(rng.random((700, 1)) < 0.3, 1e-3, 1).astype(np.float32)
    return {
        "ordinary": (plain, many),
        "repeated": (plain, np.concatenate([many[:100], many[:100], many[:500]])),
        "far from zero": (offset[::12] + np.float32(0.01), offset),
        "copies with noise": (plain, noisy(plain[rng.integers(0, 60, 700)], 1e-4)),
        "all equal": (plain, np.repeat(many[:1], 700, 0)),
        "constants": (np.full((9, 300), 3.3, np.float32), np.full((700, 300), 3.3, np.float32)),
        "few modes": (plain, modes),
        "few modes with noise": (plain, noisy(modes, 1e-5)),
        "one mode with noise": (plain, noisy(np.repeat(many[:1], 700, 0), 1e-4)),
        "levels far apart": (levels[::7], small * levels),
        "one dimension": tuple(rng.integers(0, 9, (num, 1)).astype(np.float32) for num in (40, 700)),
        "fewer than k": (plain, many[:3]),
        "an outlier": (plain, np.concatenate([many, np.full((1, 300), 1e6, np.float32)])),
    }


FAMILIES = families()


@pytest.mark.parametrize("name", FAMILIES)
def test_neighbours_equal_those_of_sorting(name):
    queries, base = FAMILIES[name]
    assert_exact(queries, base, min(5, len(base)))


@pytest.mark.parametrize("name", FAMILIES)
def test_neighbours_depend_neither_on_blocks_nor_on_parts(name):
    queries, base = FAMILIES[name]
    whole = nearest(queries, base, 5)
    found = [
        nearest(queries, base, 5, query_block=q, base_block=b) for q, b in ((7, 13), (60, 64), (1, 699), (64, 701))
    ]
    for step in (17, 256, 650):
        begins = list(range(0, len(base), step))
        parts = [nearest(queries, base[begin : begin + step], 5) for begin in begins]
        found.append(merge_nearest(parts, begins))
        found.append(merge_nearest(parts[::-1], begins[::-1]))
        growing = merge_nearest(parts[:1])
        for begin, part in zip(begins[1:], parts[1:], strict=True):
            growing = merge_nearest([growing, part], [0, begin])
        found.append(growing)
    for distances, indices in found:
        assert np.array_equal(distances, whole[0])
        assert np.array_equal(indices, whole[1])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 60), st.integers(1, 9), st.integers(1, 7), st.integers(1, 20), st.integers(0, 99)
)
def test_neighbours_of_coarse_values(num, count, dimensions, k, block, seed):
    """Whole numbers: distances are exact, and full of ties."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (num, dimensions)).astype(np.float32)
    base = rng.integers(-2, 3, (count, dimensions)).astype(np.float32)
    own = rng.integers(-1, count, num)
    distances, indices = nearest(queries, base, k, exclude=own, query_block=block, base_block=block + 3)
    full = cdist(queries, base)
    full[own >= 0, own[own >= 0]] = np.inf
    order = np.lexsort((np.broadcast_to(np.arange(count), full.shape), full), axis=1)[:, :k]
    expected = np.take_along_axis(full, order, 1)
    width = order.shape[1]
    assert np.array_equal(indices[:, :width], np.where(np.isinf(expected), -1, order))
    np.testing.assert_allclose(distances[:, :width], expected, rtol=1e-14)
    assert (indices[:, width:] == -1).all()


def test_distances_of_a_pair_do_not_depend_on_its_company():
    queries, base = normal((40, 2190), 6), normal((300, 2190), 7)
    row, column = np.divmod(np.arange(40 * 300), 300)
    whole = neighbours._measured(queries, row, base, column)
    for pick in (slice(0, 1), slice(3, 5), slice(7, 1000), slice(None, None, 61)):
        assert np.array_equal(neighbours._measured(queries, row[pick], base, column[pick]), whole[pick])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-3, 1, 300])
def test_bounds_are_bounds(dtype, scale):
    """The product lies below the true value, and by no more than twice what is taken off."""
    rng = np.random.default_rng(8)
    queries = (50 + rng.normal(size=(30, 2190))).astype(np.float32)
    base = (50 + scale * rng.normal(size=(80, 2190))).astype(np.float32)
    centre = base.mean(0)
    left, right = np.empty((30, 2192), dtype), np.empty((80, 2192), dtype)
    norm = neighbours._fill_queries(queries, centre, left)
    square = neighbours._fill_base(base, centre, right)
    wide = np.longdouble
    a, b = queries.astype(wide) - centre, base.astype(wide) - centre
    true = (b**2).sum(1) - 2 * np.stack([(row * b).sum(1) for row in a])
    below = true - (left @ right.T)
    first, second = neighbours._slack(2190, dtype)
    assert (below >= 0).all()
    assert (below <= 2 * (first * norm[:, None] * np.sqrt(square) + second * square)).all()


def test_few_pairs_are_measured(monkeypatch):
    queries, base = normal((200, 300), 1), normal((5000, 300), 2)
    measured = []
    plain = neighbours._measured
    monkeypatch.setattr(neighbours, "_measured", lambda *args: measured.append(len(args[1])) or plain(*args))
    nearest(queries, base, 5, base_block=1000)
    # In expectation 5 a query in the first block, and 5 / j in the j-th of those after it.
    assert 5 * 200 <= sum(measured) < 3.3 * 5 * 200


def test_bounds_in_float64_close_what_float32_leaves_open(monkeypatch):
    queries, base = FAMILIES["few modes with noise"]
    measured = []
    plain = neighbours._measured
    monkeypatch.setattr(neighbours, "_measured", lambda *args: measured.append(len(args[1])) or plain(*args))
    assert_exact(queries, base, 5)
    with_both, measured[:] = sum(measured), []
    monkeypatch.setattr(neighbours, "_WORTH", np.inf)
    assert_exact(queries, base, 5)
    assert with_both < 2 * 5 * len(queries)
    assert sum(measured) > 5 * with_both


def test_nearest_survives_cancellation_near_zero():
    """With |x| = 1e4 the product formula alone is wrong by more than the distances themselves."""
    base = 10_000 + normal((50, 100), 2)
    queries = base + np.float32(1e-2)
    distances, indices = nearest(queries, base, 1)
    assert indices[:, 0].tolist() == list(range(50))
    assert distances[:, 0] == pytest.approx(0.1, rel=0.1)
    assert nearest(base, base, 1)[0].max() == 0


def test_nearest_excludes_and_pads():
    base = np.arange(3, dtype=np.float32)[:, None]
    distances, indices = nearest(base, base, 3, exclude=np.arange(3))
    assert indices.tolist() == [[1, 2, -1], [0, 2, -1], [1, 0, -1]]
    assert np.isinf(distances[:, 2]).all()


def test_nearest_excludes_one_of_many_copies():
    base = np.zeros((50, 8), np.float32)
    _, indices = nearest(base, base, 2, exclude=np.arange(50), base_block=20)
    assert indices[:3].tolist() == [[1, 2], [0, 2], [0, 1]]
    assert (indices[3:] == [0, 1]).all()


def test_no_queries_have_no_neighbours():
    distances, indices = nearest(np.empty((0, 4), np.float32), normal((5, 4), 0), 2)
    assert distances.shape == indices.shape == (0, 2)


def test_merging_pads_and_breaks_ties_by_index():
    parts = [
        (np.array([[1.0, 3.0]]), np.array([[0, 1]])),
        (np.array([[1.0, np.inf]]), np.array([[0, -1]])),
    ]
    distances, indices = merge_nearest(parts, [4, 2])
    assert distances.tolist() == [[1.0, 1.0]]
    assert indices.tolist() == [[2, 4]]
    distances, indices = merge_nearest([parts[1], (np.array([[np.inf, np.inf]]), np.array([[-1, -1]]))], [0, 7])
    assert indices.tolist() == [[0, -1]]


def test_memory_is_bounded():
    queries, base = normal((1200, 64), 3), normal((30_000, 64), 4)
    tracemalloc.start()
    nearest(queries, base, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 < 4 * len(queries) * len(base)


def test_memory_is_bounded_when_all_are_almost_equal():
    """Every pair is open in float32, and most in float64."""
    base = np.full((9000, 16), 1e3, np.float32)
    base[:, 0] += normal(9000, 3) * np.float32(1e-3)
    queries = base[:300].copy()
    queries[:, 1] += 1e5
    tracemalloc.start()
    nearest(queries, base, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_log_density_does_not_underflow():
    base = np.random.default_rng(0).normal(size=(200, 16))
    far = log_density(np.array([np.full(16, 100.0), np.full(16, 200.0)]), base, 0.5)
    assert np.isfinite(far).all()
    assert far[0] > far[1]


def test_log_density_is_that_of_the_formula_in_any_blocks_and_parts():
    queries, base = normal((50, 3), 0).astype(float), normal((400, 3), 1)
    expected = np.log(np.exp(-(cdist(queries, base) ** 2) / (2 * 0.3**2)).mean(1))
    whole = log_density(queries, base, 0.3)
    np.testing.assert_allclose(whole, expected, atol=1e-10)
    np.testing.assert_allclose(log_density(queries, base, 0.3, query_block=7, base_block=33), whole, atol=1e-10)
    parts = [base[:30], base[30:290], base[290:]]
    merged = merge_log_density([log_density(queries, part, 0.3) for part in parts], list(map(len, parts)))
    np.testing.assert_allclose(merged, whole, atol=1e-10)
