"""The split into training and holdout: always by whole entities, never by single series of one."""

import hashlib
from collections.abc import Set

import numpy as np

from ttsgan.data.storage import Location
from ttsgan.data.tables import read_table, write_table
from ttsgan.errors import ConfigError, DataError


def split_entities(entities: np.ndarray, fraction: float, seed: int, secret: str) -> np.ndarray:
    """Choose the entities to hold out, and return which series are theirs.

    An entity's rank in the draw depends on its name, the seed and the secret alone, not on the order of the rows.

    Parameters
    ----------
    entities : ndarray of shape (n,), text
        The entity of each series.
    fraction : float
        Share of entities to hold out, above 0 and below 1; at least one entity lands on each side.
    seed : int
        Another seed gives another split.
    secret : str
        Text that only the owner of the series knows, such as their fingerprint. Names are often known, and seeds are
        released: without a secret anybody could tell who was in the training data.

    Returns
    -------
    ndarray of shape (n,), bool
        True where the series is held out.

    Raises
    ------
    ConfigError
        The fraction is not between 0 and 1.
    DataError
        There is only one entity.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"data.holdout is {fraction}; allowed: above 0 and below 1, or a path")
    unique, owner = np.unique(entities.astype(str), return_inverse=True)
    if len(unique) < 2:
        raise DataError(
            f"entity: {len(unique)} entity found, 2 or more are needed to hold one out; name another data.entity"
            " column, or bring more data"
        )
    tickets = [hashlib.sha256(f"{seed}/{secret}/{name}".encode()).digest() for name in unique.tolist()]
    held = min(max(round(fraction * len(unique)), 1), len(unique) - 1)
    chosen = np.zeros(len(unique), dtype=bool)
    chosen[sorted(range(len(unique)), key=tickets.__getitem__)[:held]] = True
    return chosen[owner]


def check_enough(entities_train: np.ndarray, min_group_size: int) -> None:
    """Refuse training data with too few entities for two groups.

    Parameters
    ----------
    entities_train : ndarray of shape (n,), text
        The entity of each training series.
    min_group_size : int
        Smallest number of entities in a group.

    Raises
    ------
    DataError
        Fewer distinct entities than two groups need; the message gives both numbers.
    """
    found, needed = len(np.unique(entities_train.astype(str))), 2 * min_group_size
    if found < needed:
        raise DataError(
            f"entity: {found} training entities, but 2 groups of at least {min_group_size} need {needed}; bring"
            " more entities, hold out fewer (data.holdout), or lower cluster.min_group_size (10 or more)"
        )


def check_disjoint(train_entities: np.ndarray, holdout_entities: np.ndarray) -> None:
    """Refuse a holdout that shares entities with the training data; `DataError` names a few of them."""
    shared = np.intersect1d(train_entities.astype(str), holdout_entities.astype(str))
    if len(shared):
        few = ", ".join(shared[:3].tolist()) + (", ..." if len(shared) > 3 else "")
        raise DataError(
            f"data.holdout: {len(shared)} entities of the holdout are in the training data as well ({few}); the holdout"
            " needs entities that training never sees"
        )


def write_splits(where: Location, ids: np.ndarray, entities: np.ndarray, holdout: np.ndarray) -> None:
    """Write ``splits.parquet``: ``id``, ``entity`` and ``split`` (``train`` or ``holdout``) of each of n series.

    Parameters
    ----------
    where : Location
        The file.
    ids, entities : ndarray of shape (n,), text
    holdout : ndarray of shape (n,), bool
        From `split_entities`.
    """
    write_table(where, {"id": ids, "entity": entities, "split": np.where(holdout, "holdout", "train")})


def where_in(ids: np.ndarray, wanted: Set[str]) -> np.ndarray:
    """Return a mask (n,) of the ``ids`` (n,) that are in ``wanted``; numpy's own test would sort at every call."""
    return np.fromiter((name in wanted for name in ids.tolist()), bool, len(ids))


def read_splits(where: Location) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids (n,) object, entities (n,) object and the holdout mask (n,) bool of a ``splits.parquet``.

    Raises
    ------
    DataError
        The file is absent, damaged, or not one of `write_splits`.
    """
    ids, entities, split = read_table([where], ["id", "entity", "split"]).values()
    wrong = ~np.isin(split.astype(str), ("train", "holdout"))
    if wrong.any():
        raise DataError(f"{where}: split is {split[wrong][0]!r} for {ids[wrong][0]!r}; allowed: train, holdout")
    return ids, entities, split == "holdout"
