"""Pictures of the report that are drawn from samples of series, each with an alternative text.

Of several channels, only the first is drawn. `panels` contains the drawing of one panel, `charts` the pictures that
need no series.

Axes: n series, L time steps, D days, S slots of a day, K feature columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ttsgan.errors import DataError
from ttsgan.evaluation.features import BAND, PROBABILITIES, Features, copy_gaps, curves, extract, histogram_edges
from ttsgan.evaluation.judged import Judged
from ttsgan.evaluation.panels import (
    COLOURS,
    INK,
    LINES,
    MONTHS,
    SETS,
    Panel,
    draw_panel,
    label_axes,
    label_dates,
    label_log_axis,
    write_tick,
)

MAX_SERIES = 2000
"""Largest number of series drawn per set: with 200, sampling noise alone moves the quantiles of a day by a tenth."""
NUM_WEEKS = 4
NUM_YEARS = 3
FEWEST = 5
KINDS = {"holdout": "Real, held out", "synthetic": "Synthetic"}
DAY_GROUPS = {"weekday": "Monday to Friday", "weekend": "Saturday and Sunday", "all": "All days"}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
RANKS = ("Small series", "Below the middle", "Above the middle", "Large series")
PERIODS = {1 / 365: "year", 12 / 365: "month", 1 / 7: "week", 1.0: "day", 2.0: "12 h", 12.0: "2 h"}


@dataclass(frozen=True)
class Pictures:
    """Samples that the figures are drawn from, of equal channels, length, step and unit.

    At most `MAX_SERIES` series of each are drawn, chosen by entity; series without any reading are set aside.

    Parameters
    ----------
    train, holdout, synthetic : Judged
        Real series the generator was trained on, real series it never saw, and series it made.
    """

    train: Judged
    holdout: Judged
    synthetic: Judged


class Gallery:
    """All figures that need series.

    Parameters
    ----------
    pictures : Pictures
        Samples to draw.
    show_real : bool
        Whether single real series may be drawn. If not, weeks and years show synthetic series alone, and
        distributions leave out real bins of fewer than `FEWEST` series; the rest are statistics of whole sets.

    Raises
    ------
    DataError
        If a set has no series with readings.
    """

    def __init__(self, pictures: Pictures, show_real: bool = True) -> None:
        self.show_real = show_real
        rng = np.random.default_rng(0)
        self.shown: dict[str, Judged] = {}
        for name in SETS:
            judged = getattr(pictures, name)
            judged = replace(judged, values=judged.values[:, :1])
            empty = judged.usable()[0]
            if empty.all():
                raise DataError(f"pictures.{name} has no series with readings; give at least one")
            self.shown[name] = judged.take(~empty).sample_entities(MAX_SERIES, rng)
        first = self.shown["holdout"]
        self.unit = first.unit[:24] or "value"
        self.clock, self.steps, self.length = first.has_clock, first.steps_per_day, first.values.shape[2]
        donors = max(self.shown["train"], first, key=lambda part: np.isnan(part.values).mean())
        sets = {**self.shown, "synthetic": copy_gaps(self.shown["synthetic"], donors, rng)}
        real = np.concatenate([sets["train"].filled(), sets["holdout"].filled()])
        edges, smallest = histogram_edges(real), max(1e-4 * float(np.median(np.abs(real).mean(-1))), 1e-9)
        self.features: dict[str, Features] = {name: extract(part, edges, smallest) for name, part in sets.items()}
        self.curves = {name: curves(part, self.features[name]) for name, part in sets.items()}

    def panels(self) -> dict[str, list[Panel]]:
        """Return all figures in the order of the page: weeks, days, time, years, sizes."""
        figures = {"weeks": self.weeks(), "days": self.day_profiles()}
        figures["time"] = [self._duration(), self._memory(), self._spectrum()]
        return {**figures, "years": self.years(), "sizes": self.distributions()}

    def _pairs(self, count: int) -> Iterator[tuple[int, str, Judged, str]]:
        """Yield (pair, set, one series, its level in words) at evenly spaced ranks of level in each set."""
        for pair in range(count):
            for name in ("holdout", "synthetic") if self.show_real else ("synthetic",):
                level = self.features[name].columns["level"][:, 0]
                row = int(np.argsort(level, kind="stable")[int((pair + 0.5) / count * len(level))])
                series = self.shown[name].take(slice(row, row + 1))
                yield pair, name, series, f"{float(np.exp(level[row])):.3g} {self.unit}"

    def _week(self, series: Judged, share: float) -> tuple[np.ndarray, list[str], str]:
        """Return a week from a Monday near this share of the year, the names of its days, and its date."""
        x, steps = series.values[0, 0], self.steps
        if not self.clock:
            return x[: 7 * steps], [f"{day + 1}" for day in range(min(7, len(x) // steps))], ""
        begin = int(series.first_midnights()[0])
        weekday = series.calendar((len(x) - begin) // steps)[0][0]
        midnight = series.starts[0] + np.timedelta64(begin * series.step_seconds, "s")
        dates = midnight.astype("datetime64[D]") + np.arange(len(weekday)).astype("timedelta64[D]")
        first = 0
        mondays = np.flatnonzero((weekday == 0) & (np.arange(len(weekday)) <= len(weekday) - 7))
        if mondays.size:
            far = np.abs((dates - dates.astype("datetime64[Y]")).astype(int)[mondays] - 365 * share)
            missing = [np.isnan(x[begin + day * steps :][: 7 * steps]).mean() > 0.1 for day in mondays]
            first = int(mondays[np.lexsort((far, missing))[0]])
        date = dates[first].item()
        days = [WEEKDAYS[day] for day in weekday[first : first + 7]]
        return x[begin + first * steps :][: len(days) * steps], days, f"{date.day} {MONTHS[date.month - 1]}"

    def weeks(self) -> list[Panel]:
        """Draw single weeks: each panel has a real and a synthetic series of the same rank in level, on one scale."""
        chosen = [(*item, *self._week(item[2], (item[0] + 0.5) / NUM_WEEKS)) for item in self._pairs(NUM_WEEKS)]
        panels = []
        for pair, title in enumerate(RANKS):
            shown = [item[1:] for item in chosen if item[0] == pair]
            known = np.concatenate([x for _, _, _, x, _, _ in shown])
            known = known[np.isfinite(known)] if np.isfinite(known).any() else np.zeros(1)
            low, high = min(0.0, float(known.min())), float(known.max())

            def draw(*axes: Axes, shown: list = shown, low: float = low, high: float = high) -> None:
                for ax, (name, _, level, x, days, date) in zip(axes, shown, strict=True):
                    at = np.arange(len(x) + 1) / self.steps
                    y = np.append(x, x[-1:])
                    ax.fill_between(at, y, step="post", color=COLOURS[name], alpha=0.18, lw=0)
                    ax.step(at, y, where="post", color=COLOURS[name], lw=1.0)
                    ax.set(xlim=(0, at[-1]), ylim=(low, high + 0.06 * max(high - low, 1e-9)))
                    ax.set_xticks(np.arange(len(days) + 1), labels=[])
                    ax.set_xticks(np.arange(len(days)) + 0.5, labels=days, minor=True)
                    label_axes(ax, "", self.unit, 3)
                    text = f"{KINDS[name]}{', ' + date if date else ''}, mean {level}"
                    ax.set_title(text, loc="left", fontsize=8, color=COLOURS[name], pad=3, parse_math=False)
                if not self.clock:
                    axes[-1].set_xlabel(f"block of {self.steps} steps")

            texts = []
            for name, _, level, x, _, date in shown:
                seen = x[np.isfinite(x)]
                extent = f"from {seen.min():.3g} to {seen.max():.3g} {self.unit}" if seen.size else "without a reading"
                when = f", week of {date}" if date else ""
                texts.append(f"{KINDS[name]}{when}: readings {extent}; mean of the whole series {level}.")
            size = {"width": 284, "height": 64 * len(shown) + 14}
            panels.append(draw_panel(f"week{pair}", title, " ".join(texts), draw, rows=len(shown), **size))
        return panels

    def _day_bands(self, name: str) -> dict[str, np.ndarray]:
        """Return quantiles (5, S) by kind of day and season, and of all days."""
        bands = {g: part["quantiles"] for g, part in self.curves[name]["day_profile"]["groups"].items()}
        days = self.shown[name].days(self.features[name].values)
        return {**bands, "all": np.quantile(days.reshape(-1, days.shape[-1]), BAND, axis=0)}

    def day_profiles(self) -> list[Panel]:
        """Draw quantiles over series and days at each time of the day, by kind of day and by season."""
        real, made = (self._day_bands(name) for name in ("holdout", "synthetic"))
        groups = [group for group in real if group in made and group != "all" and self.clock] or ["all"]
        slots = self.shown["holdout"].slots
        hours = (np.arange(slots) + 0.5) * 24 / slots
        highest = [max(float(part[g][-1].max()) for g in groups) for part in (real, made)]
        lowest = min(float(part[g][0].min()) for part in (real, made) for g in groups)
        top = min(max(highest), 2 * highest[0]) if highest[0] > 0 else max(highest)
        panels = []
        for group in groups:
            q, s = real[group], made[group]

            def draw(ax: Axes, q: np.ndarray = q, s: np.ndarray = s) -> None:
                for edge, alpha in ((0, 0.16), (1, 0.26)):
                    ax.fill_between(hours, q[edge], q[4 - edge], color=COLOURS["holdout"], alpha=alpha, lw=0)
                ax.plot(hours, q[2], color=COLOURS["holdout"], lw=1.8)
                for curve, width, style in zip(s, (1, 1, 1.7, 1, 1), (":", "--", "-", "--", ":"), strict=True):
                    mark = "o" if slots < 8 else ""
                    ax.plot(hours, curve, color=COLOURS["synthetic"], lw=width, ls=style, marker=mark, ms=2.2)
                ax.set(xlim=(0, 24), ylim=(min(0.0, lowest), top * 1.04 if top > 0 else None))
                ax.set_xticks([0, 6, 12, 18, 24], labels=["0 h", "6", "12", "18", "24"] if self.clock else [""] * 5)
                label_axes(ax, "time of day" if self.clock else f"place in a block of {self.steps} steps", self.unit)

            peak = int(np.argmax(q[2]))
            when = f"at {hours[peak]:g} h" if self.clock else f"in slot {peak + 1}"
            title = DAY_GROUPS.get(group, group.capitalize())
            alt = (
                f"{title}: the held-out median is highest {when}, {q[2][peak]:.3g} {self.unit} (synthetic "
                f"{s[2][peak]:.3g}); 5 % to 95 % of readings there: {q[0][peak]:.3g} to {q[4][peak]:.3g} "
                f"(synthetic {s[0][peak]:.3g} to {s[4][peak]:.3g})."
            )
            panels.append(draw_panel(f"day-{group}", title, alt, draw, height=222))
        return panels

    def _lines(
        self, name: str, title: str, alt: str, points: Callable[[str], tuple], finish: Callable[[Axes], None], log: str
    ) -> Panel:
        """Draw one line per set; `log` names the logarithmic axes."""

        def draw(ax: Axes) -> None:
            for part in SETS:
                ax.plot(*points(part), **LINES[part])
            if "x" in log:
                ax.set_xscale("log")
            if "y" in log:
                ax.set_yscale("log")
                label_log_axis(ax.yaxis, *ax.get_ylim())
            finish(ax)

        return draw_panel(name, title, alt, draw, height=262)

    def _duration(self) -> Panel:
        load = {name: part.columns["shape marginal"].mean(0) for name, part in self.features.items()}
        top = {name: float(np.interp(0.99, PROBABILITIES, curve)) for name, curve in load.items()}

        def finish(ax: Axes) -> None:
            label_log_axis(ax.xaxis, 0.1, 100)
            ax.set_xlim(0.1, 100)
            label_axes(ax, "share of time at or above, % (log scale)", "load / mean of the series")

        alt = (
            f"Load-duration curve: 1 % of the time the load is at least {top['holdout']:.3g} times the mean held out, "
            f"{top['synthetic']:.3g} times synthetic."
        )
        share = 100 * (1 - PROBABILITIES)
        return self._lines("duration", "Load-duration curve", alt, lambda name: (share, load[name]), finish, "x")

    def _memory(self) -> Panel:
        curve = {name: part["autocorrelation"] for name, part in self.curves.items()}
        per = self.steps if self.clock else 1
        last = int(curve["holdout"]["lag_steps"][-1])
        at = min(self.steps, last)

        def finish(ax: Axes) -> None:
            ax.set(xlim=(0, max(last / per, 1e-9)), ylim=(None, 1.02))
            ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            label_axes(ax, "lag, days" if self.clock else "lag, steps", "autocorrelation")

        alt = (
            f"Autocorrelation at {'one day' if self.clock and at == self.steps else f'{at} steps'}: "
            f"{curve['holdout']['value'][at]:.2f} held out, {curve['synthetic']['value'][at]:.2f} synthetic."
        )
        points = {name: (part["lag_steps"] / per, part["value"]) for name, part in curve.items()}
        return self._lines("memory", "Autocorrelation", alt, points.__getitem__, finish, "")

    def _spectrum(self) -> Panel:
        curve = {name: part["periodogram"] for name, part in self.curves.items()}
        frequency = curve["holdout"]["cycles_per_day"]
        marks = {f: word for f, word in PERIODS.items() if 0.9 * frequency[0] <= f <= 1.05 * frequency[-1]}
        lines = {word: f for f, word in marks.items() if self.clock and word in ("year", "week", "day")}

        def finish(ax: Axes) -> None:
            ax.set_xlim(0.93 * frequency[0], 1.001 * frequency[-1])
            if self.clock:
                for line in lines.values():
                    ax.axvline(line, color=INK, lw=0.9, ls=(0, (1, 2)), zorder=1)
                ax.xaxis.set_major_locator(FixedLocator(list(marks)))
                ax.xaxis.set_major_formatter(FixedFormatter(list(marks.values())))
            else:
                label_log_axis(ax.xaxis, *ax.get_xlim())
            ax.xaxis.set_minor_locator(NullLocator())
            label_axes(ax, "period (log scale)" if self.clock else "cycles per step", "power / white noise (log scale)")

        points = {name: (part["cycles_per_day"], np.exp(part["log_power"])) for name, part in curve.items()}
        at = 1.0 if self.clock else float(frequency[len(frequency) // 2])
        power = {name: float(np.interp(at, *xy)) for name, xy in points.items()}
        alt = (
            f"Spectrum: power at {'one cycle a day' if self.clock else 'middle frequencies'}, white noise being 1, is "
            f"{power['holdout']:.3g} held out and {power['synthetic']:.3g} synthetic"
            f"{'; dotted lines mark ' + ', '.join(lines) if lines else ''}."
        )
        return self._lines("spectrum", "Spectrum", alt, points.__getitem__, finish, "xy")

    def distributions(self) -> list[Panel]:
        """Draw histograms over series of level, peak and load factor."""
        panels = []
        for source, title, unit, log in (
            ("level", "Level: mean of a series", self.unit, True),
            ("peak", "Peak: largest reading", self.unit, True),
            ("load factor", "Load factor: mean / peak", "", False),
        ):
            values = {name: part.columns[source][:, 0] for name, part in self.features.items()}
            low, high = np.quantile(np.concatenate([values["train"], values["holdout"]]), [0.02, 0.98])
            margin = max(0.2 * (high - low), 0.02)
            low, high = low - margin if log else max(0.0, low - margin), high + margin
            edges = np.linspace(low, high, 19)
            count = {n: np.histogram(np.clip(v, low, high), edges)[0] for n, v in values.items()}
            if not self.show_real:
                count |= {n: np.where(count[n] < FEWEST, 0, count[n]) for n in ("train", "holdout")}
            share = {n: 100 * part / len(values[n]) for n, part in count.items()}
            at = np.exp(edges) if log else edges

            def draw(ax: Axes, at: np.ndarray = at, share: dict = share, log: bool = log, unit: str = unit) -> None:
                ax.stairs(share["holdout"], at, fill=True, color=COLOURS["holdout"], alpha=0.22, lw=0)
                for name in SETS:
                    ax.stairs(share[name], at, **LINES[name])
                ax.xaxis.set_major_locator(MaxNLocator(5))
                if log:
                    ax.set_xscale("log")
                    label_log_axis(ax.xaxis, at[0], at[-1])
                ax.set(xlim=(at[0], at[-1]), ylim=(0, None))
                label_axes(ax, f"{unit} (log scale)" if log else "mean / peak", "share of series, %")

            middle = {n: float(np.median(np.exp(v) if log else v)) for n, v in values.items()}
            alt = (
                f"{title}: median {middle['holdout']:.3g} held out, {middle['synthetic']:.3g} synthetic, "
                f"{middle['train']:.3g} training {unit}".rstrip()
                + "."
            )
            panels.append(draw_panel(f"size-{source.replace(' ', '-')}", title, alt, draw, height=230))
        return panels

    def years(self) -> list[Panel]:
        """Draw whole series as images, day across and time of day upwards."""
        chosen = [(*item, item[2].days(item[2].values)[0, 0].T) for item in self._pairs(NUM_YEARS)]
        panels = []
        for pair, name, series, level, image in chosen:
            known = np.concatenate([item[4].ravel() for item in chosen if item[0] == pair])
            known = known[np.isfinite(known)] if np.isfinite(known).any() else np.zeros(1)
            low, high = (float(end) for end in np.quantile(known, [0.01, 0.99]))

            def draw(
                ax: Axes, image: np.ndarray = image, low: float = low, high: float = high, series: Judged = series
            ) -> None:
                shown = ax.imshow(
                    image, aspect="auto", origin="lower", interpolation="none", cmap="cividis", vmin=low,
                    vmax=max(high, low + 1e-9), extent=(0, image.shape[1], 0, 24),
                )  # fmt: skip
                ax.grid(False)
                ax.set_yticks([0, 6, 12, 18, 24] if self.clock else [])
                label_dates(ax, series, image.shape[1])
                ax.set_ylabel("hour" if self.clock else "place in block")
                bar = ax.figure.colorbar(shown, ax=ax, pad=0.02, aspect=14)
                bar.outline.set_visible(False)
                bar.ax.grid(False)
                bar.ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
                bar.ax.yaxis.set_major_formatter(FuncFormatter(write_tick))
                bar.set_label(self.unit, parse_math=False)

            alt = (
                f"{KINDS[name]} series as an image of {image.shape[1]} days by {image.shape[0]} times of day; "
                f"mean {level}; 98 % of the readings of the pair lie between {low:.3g} and {high:.3g}."
            )
            title = f"{KINDS[name]}, mean {level}"
            panels.append(draw_panel(f"year{pair}-{name}", title, alt, draw, shows=name, height=196))
        return panels
