"""Pictures of the report that are drawn from results alone: the membership ROC curve and the map of series.

Axes: n series, K feature columns.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ttsgan.evaluation.panels import COLOURS, GRID, INK, SETS, Panel, draw_panel, label_axes

WORDS = {"train": "Training", "holdout": "Held out", "synthetic": "Synthetic"}
MARKS = {"train": ("o", 3.2, 0.65), "holdout": ("s", 3.8, 0.8), "synthetic": ("^", 4.4, 0.8)}
PAIRS = (("holdout", "synthetic"), ("train", "synthetic"), ("train", "holdout"))
MAX_POINTS = 300


def roc(audit: dict) -> list[Panel]:
    """Draw the ROC curve of the membership attack on log scales (low false positive rates) and on linear scales.

    Parameters
    ----------
    audit : dict
        Output of `privacy.audit`.

    Returns
    -------
    list of Panel
        Empty where the audit ended before computing a curve.
    """
    curve, limits = audit["curves"]["roc"], audit["thresholds"]
    if not curve["fpr"]:
        return []
    fpr, tpr = np.array(curve["fpr"], float), np.array(curve["tpr"], float)
    one_alarm = 1 / max(1, audit["sizes"]["holdout"]["audited_entities"])
    mark = f"{100 * limits['fpr']:g} % false alarms"

    def draw(ax: Axes, low: float) -> None:
        ax.plot([low, 1], [low, 1], color=INK, lw=1, ls=(0, (2, 2)))
        ax.axvline(limits["fpr"], color=INK, lw=0.9, ls=(0, (1, 2)))
        # of the points below the lowest rate drawn, keep only the last, where the curve enters
        first = max(0, int(np.searchsorted(fpr, low, side="right")) - 1)
        x, y = np.maximum(fpr[first:], low), np.maximum(tpr[first:], low)
        ax.plot(x, y, color=COLOURS["synthetic"], lw=1.8, clip_on=False)
        ax.plot(limits["fpr"], limits["tpr"], "D", ms=5.5, mfc="none", color=INK, mew=1.4, zorder=5)
        if low:
            ax.set(xscale="log", yscale="log")
            ax.axvspan(low, min(1.0, max(low, one_alarm)), color=GRID, alpha=0.55, lw=0)
            ax.annotate(mark, (limits["fpr"], low), xytext=(4, 5), textcoords="offset points", fontsize=8)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator() if low else MaxNLocator(5))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        ax.set(xlim=(low, 1), ylim=(low, 1), xlabel="non-members taken for members, %", ylabel="members recognised, %")

    at = float(np.interp(limits["fpr"], fpr, tpr))
    panels = []
    for name, title, low in (("low", "Few false alarms (log scales)", 1e-3), ("all", "All false alarm rates", 0.0)):
        alt = (
            f"{title}: membership attack, {100 * at:.3g} % of members are recognised at {mark}; the limit is "
            f"{100 * limits['tpr']:g} % and guessing gives {100 * limits['fpr']:g} %."
        )
        panels.append(draw_panel(f"roc-{name}", title, alt, lambda ax, low=low: draw(ax, low), height=270))
    return panels


def map_of_series(embedding: dict) -> list[Panel]:
    """Draw each pair of training, held-out and synthetic series on a map; the real pair shows how well-mixed sets look.

    Parameters
    ----------
    embedding : dict
        ``train``, ``holdout`` and ``synthetic``: points (n, 2), of which at most `MAX_POINTS` are drawn;
        ``explained``: share of the variance along each axis, 0 to 1.

    Returns
    -------
    list of Panel
        Held out and synthetic, training and synthetic, training and held out, on equal axes.
    """
    points = {name: np.asarray(embedding[name], float).reshape(-1, 2)[:MAX_POINTS] for name in SETS}
    low, high = np.quantile(np.concatenate(list(points.values())), [0.005, 0.995], axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-6)
    low, high = low - margin, high + margin
    middle = np.quantile(points["holdout"], [0.05, 0.95], axis=0)
    inside = {name: ((part >= middle[0]) & (part <= middle[1])).mean() for name, part in points.items()}
    panels = []
    shares = embedding["explained"]
    for pair in PAIRS:

        def draw(ax: Axes, pair: tuple = pair) -> None:
            for name in pair:
                marker, size, alpha = MARKS[name]
                face = {"mew": 0} if name == "train" else {"mfc": "none", "mew": 0.9}
                x, y = np.clip(points[name], low, high).T
                ax.plot(x, y, marker, ls="", ms=size, color=COLOURS[name], alpha=alpha, clip_on=False, **face)
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            label_axes(ax, *(f"axis {k + 1} ({100 * share:.0f} % of the spread)" for k, share in enumerate(shares)))
            ax.xaxis.set_major_locator(MaxNLocator(5))

        first, second = (f"{len(points[name])} {WORDS[name].lower()}" for name in pair)
        alt = (
            f"Map of {first} and {second} series; of 100 coordinates, "
            f"{' and '.join(f'{100 * inside[name]:.0f} {WORDS[name].lower()}' for name in pair)} lie in the middle "
            "90 % of held-out ones."
        )
        title = f"{WORDS[pair[0]]} and {WORDS[pair[1]].lower()}"
        panels.append(draw_panel(f"map-{pair[0]}-{pair[1]}", title, alt, draw, height=280))
    return panels
