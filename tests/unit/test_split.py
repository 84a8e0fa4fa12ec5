"""The split goes by entity, never by row."""

import numpy as np
import pytest

from ttsgan.data.split import check_disjoint, check_enough, read_splits, split_entities, write_splits
from ttsgan.data.storage import Location
from ttsgan.errors import ConfigError, DataError

ENTITIES = np.array([f"home-{row // 3:03d}" for row in range(300)], dtype=object)


def test_an_entity_is_on_one_side_only():
    holdout = split_entities(ENTITIES, 0.25, seed=0, secret="s")
    assert not set(ENTITIES[holdout]) & set(ENTITIES[~holdout])
    assert len(set(ENTITIES[holdout])) == 25
    assert holdout.dtype == bool
    assert len(holdout) == 300


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    holdout = split_entities(ENTITIES, 0.25, seed=0, secret="s")
    order = np.random.default_rng(0).permutation(len(ENTITIES))
    np.testing.assert_array_equal(split_entities(ENTITIES[order], 0.25, seed=0, secret="s"), holdout[order])
    assert (split_entities(ENTITIES, 0.25, seed=1, secret="s") != holdout).any()


def test_who_knows_names_and_seed_cannot_tell_the_halves():
    guess, true = (split_entities(ENTITIES, 0.5, seed=0, secret=secret) for secret in ("another", "s"))
    assert 0.3 < (guess == true).mean() < 0.7


@pytest.mark.parametrize(("fraction", "held"), [(0.001, 1), (0.5, 2), (0.999, 3)])
def test_both_sides_get_an_entity(fraction, held):
    assert split_entities(np.array(list("abcd")), fraction, seed=0, secret="s").sum() == held


def test_wrong_requests_are_refused():
    with pytest.raises(ConfigError, match=r"data\.holdout is 1\.5"):
        split_entities(ENTITIES, 1.5, seed=0, secret="s")
    with pytest.raises(DataError, match="1 entity found, 2 or more"):
        split_entities(np.array(["a", "a"]), 0.5, seed=0, secret="s")


def test_check_enough_counts_entities_not_rows():
    check_enough(ENTITIES, min_group_size=50)
    with pytest.raises(DataError, match="100 training entities, but 2 groups of at least 51 need 102"):
        check_enough(ENTITIES, min_group_size=51)


def test_check_disjoint_names_the_shared():
    check_disjoint(np.array(["a", "b"]), np.array(["c"]))
    with pytest.raises(DataError, match=r"2 entities .*\(b, c\)"):
        check_disjoint(np.array(["a", "b", "c"]), np.array(["c", "b", "c"]))


def test_splits_round_trip(tmp_path):
    where = Location.parse(str(tmp_path)) / "splits.parquet"
    ids = np.array([f"series-{row}" for row in range(300)], dtype=object)
    holdout = split_entities(ENTITIES, 0.25, seed=0, secret="s")
    write_splits(where, ids, ENTITIES, holdout)
    for found, expected in zip(read_splits(where), (ids, ENTITIES, holdout), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_foreign_splits_are_refused(tmp_path):
    where = Location.parse(str(tmp_path)) / "splits.parquet"
    where.write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match=r"splits\.parquet cannot be read"):
        read_splits(where)
