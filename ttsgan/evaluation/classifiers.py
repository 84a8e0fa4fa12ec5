"""Can a classifier tell two sets of series apart? Three fixed ones, trained from scratch for every pair of sets.

*Boosting* reads the features of whole series, the *convolution* windows of consecutive days, the *patch transformer*
weeks from all over the series, one token per day with its place in the week and in the series.

Every seed trains once and tests on its own fold of the entities. The folds are disjoint, so that k seeds test every
series once with a classifier trained on the rest: for the same work, two-fold cross-fitting under k / 2 seeds would
train on half of the entities (weaker classifiers) and test the same series again, which removes no luck of the sample.
A part of the training entities chooses when to stop.

Nothing here may be told apart but the values. Both sides are given each other's gaps before filling, the days of both
begin at midnight and on the same weekday, and the entities of a fold are never trained on.

Axes: n series of both sets, C channels, L time steps, D days, S steps of a day, F features, W days of a window,
B windows of a batch, H width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn
from torch.nn import functional

from ttsgan.evaluation.judged import DAY_SECONDS, Judged

WEEK = 7
WINDOW_DAYS = 56
VALIDATION = 0.2
"""Share of the training entities that decides when training stops."""
BATCH = 48
MAX_STEPS = 240
CHECK_EVERY = 30
PATIENCE = 3
"""Checks without a lower validation loss before training stops."""
ROUNDS = 120


@dataclass(frozen=True)
class Telling:
    """How well one classifier told two sets apart on entities that it had not seen.

    Parameters
    ----------
    accuracy : float
        Balanced accuracy - 0.5, -0.5..0.5; 0 = cannot tell, below 0 by chance or because each series has a twin on
        the other side.
    accuracy_error : float
        Its standard error.
    auc : float
        Area under the ROC curve, 0..1, mean over seeds.
    auc_error : float
        Its standard error.
    """

    accuracy: float
    accuracy_error: float
    auc: float
    auc_error: float


Labelled = tuple[NDArray[np.int64], NDArray[np.int64]]
