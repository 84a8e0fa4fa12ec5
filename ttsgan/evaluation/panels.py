"""Drawing of one panel of the report: colours, axes, SVG.

A panel is drawn at about the size at which a page shows it, so that its letters stay readable on a telephone; wide
figures are several panels that the page lays out. Colours are written as CSS variables, so that one picture serves
light, dark and print.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import StringIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ttsgan.evaluation.judged import Judged

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SETS = ("train", "holdout", "synthetic")
COLOURS = {"train": "#7b7f87", "holdout": "#0072b2", "synthetic": "#d55e01"}
LINES = {
    "train": {"color": COLOURS["train"], "lw": 1.3, "ls": (0, (1, 1.2))},
    "holdout": {"color": COLOURS["holdout"], "lw": 1.8, "ls": "-"},
    "synthetic": {"color": COLOURS["synthetic"], "lw": 1.6, "ls": (0, (4, 1.3))},
}
INK, GRID = "#1d2433", "#d6dbe3"
_VARIABLES = {**{colour: name for name, colour in COLOURS.items()}, INK: "ink", GRID: "grid"}
_STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8.5,
    "axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": GRID, "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.xmargin": 0,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "xtick.major.size": 3,
    "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0, "axes.formatter.use_mathtext": False,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One picture.

    Parameters
    ----------
    title : str
        Heading.
    svg : str
        SVG element to be put into HTML as it is; carries `alt` as its label.
    alt : str
        Alternative text: what the picture shows, with its main numbers.
    shows : str
        "holdout" or "synthetic" where single series of one set are shown, else empty.
    """

    title: str
    svg: str
    alt: str
    shows: str = ""


def draw_panel(
    name: str,
    title: str,
    alt: str,
    draw: Callable[..., None],
    *,
    rows: int = 1,
    shows: str = "",
    width: int = 372,
    height: int = 250,
) -> Panel:
    """Draw one panel; its bytes depend only on the arguments.

    Parameters
    ----------
    name : str
        Unique on the page; letters, digits and hyphens.
    title, alt, shows : str
        See `Panel`.
    draw : callable (Axes, ...) -> None
        Draws on fresh axes, as many as `rows`.
    rows : int
        Axes one below the other; they share the horizontal axis.
    width, height : int
        CSS pixels.

    Returns
    -------
    Panel
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width / 96, height / 96), layout="constrained")
        draw(*figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
        text = StringIO()
        # call the back end directly: `savefig` would draw everything twice
        FigureCanvasSVG(figure).print_svg(text, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # inside HTML no namespace is declared, and ids must be unique in the whole page
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL).replace("xlink:href", "href")
    kept = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in kept else "", svg)
    svg = re.sub(r'((?:href="|url\()#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', svg)[0]
    body = re.sub(r"\s+", " ", svg[svg.index(">") + 1 :])
    return Panel(title, f'<svg {box} role="img" aria-label="{escape(alt)}">{body}', alt, shows)


def write_tick(value: float, _: object = None) -> str:
    """Write a tick with at most four significant digits, or with separated thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def label_axes(ax: Axes, x: str, y: str, ticks: int = 4) -> None:
    """Name both axes (plain text, never a formula) and give a linear y axis about `ticks` ticks."""
    ax.set_xlabel(x, parse_math=False)
    ax.set_ylabel(y, parse_math=False)
    if ax.get_yscale() == "linear":
        ax.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_formatter(FuncFormatter(write_tick))


def label_log_axis(axis: Axis, low: float, high: float) -> None:
    """Label powers of ten, with steps between them where the range from low to high is narrow."""
    decades = np.log10(high / low)
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3.2 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(write_tick))


def label_dates(ax: Axes, series: Judged, num_days: int) -> None:
    """Label the days of an image: months where there are several, else plain numbers."""
    month = series.calendar(num_days)[1][0]
    begins = np.flatnonzero(np.diff(month, prepend=month[0]) != 0)
    if not series.has_clock or len(begins) < 3:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set_xlabel("day" if series.has_clock else "block")
        return
    begins = begins[:: max(1, round(len(begins) / 6))]
    ax.set_xticks(begins, labels=[MONTHS[month[day]] for day in begins])
