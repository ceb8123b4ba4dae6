"""The figures of the profile page, as SVG text that follows the page's colours, light or dark.

Drawn at about the width of a phone, so that their text stays legible there; a wide screen shows two side by
side. Plain values in, SVG out; equal values give equal bytes.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ehr_assets.contracts import SPLITS
from ehr_assets.reports.figures import INK, MUTED, RULE, STYLE, svg_text
from ehr_assets.reports.profile.tables import LAGS, OLDEST, Profile

WIDTH = 5.0  # inches
COLOURS = {  # Okabe and Ito's; death in ink
    "demographics": "#999999",
    "conditions": "#0072B2",
    "measurements": "#56B4E9",
    "observations": "#009E73",
    "procedures": "#F0C419",
    "drugs": "#D55E00",
    "notes": "#CC79A7",
    "death": INK,
}
SPLIT_COLOURS: dict[str, str] = dict(zip(SPLITS, ("#0072B2", "#56B4E9", "#D55E00"), strict=True))
LAG_COLOURS = ("#d7e8f3", "#9cc7e4", "#5aa3d1", "#1f78b4", "#0b4a7a")


def events_by_year(profile: Profile) -> str | None:
    """Events per calendar year, stacked by section."""
    if not profile.years:
        return None
    fig, ax = _axes(3.9)
    _stack_years(ax, profile)
    return _finish(fig)


def events_by_year_png(profile: Profile) -> str:
    """The same as base64 PNG, for Dagster's pages."""
    fig, ax = _axes(3.1)
    _stack_years(ax, profile)
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(fig)
    return base64.b64encode(out.getvalue()).decode()


def _stack_years(ax: Axes, profile: Profile) -> None:
    present = sorted({year for by_year in profile.years.values() for year in by_year})
    first, last = (present[0], present[-1]) if present else (0, 0)
    years = np.arange(first, last + 1)
    bottom = np.zeros(len(years))
    for section, by_year in profile.years.items():
        values = np.array([by_year.get(int(y), 0) for y in years], dtype=float)
        ax.bar(years, values, bottom=bottom, width=0.9, color=COLOURS[section], label=section)
        bottom += values
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0f}"))
    _counts(ax, "y")
    ax.set(xlabel="year", ylabel="events")
    _legend_below(ax, 3)


def follow_up(profile: Profile) -> str | None:
    """The share of each split's subjects whose last event is at least so many years after their first."""
    edges = np.array(profile.follow_up_edges)
    if not any(sum(counts) for counts in profile.follow_up.values()):
        return None
    fig, ax = _axes(3.1)
    for split, counts in profile.follow_up.items():
        if total := sum(counts):
            label = f"{split.replace('_', ' ')} (n = {total:,})".replace(",", " ")
            reached = np.append(np.cumsum(counts[::-1])[::-1], 0) / total
            ax.plot(edges, reached, color=SPLIT_COLOURS[split], lw=2, label=label)
    used = max(i for counts in profile.follow_up.values() for i, n in enumerate(counts) if n)
    ax.set_xlim(0, edges[used + 1])
    ax.set_ylim(bottom=0)
    _shares(ax, "y")
    ax.set(xlabel="years since the first event", ylabel="share of subjects")
    _legend_below(ax, 3)
    return _finish(fig)


def ages(profile: Profile) -> str | None:
    """Subjects by age at the first event and by sex."""
    if not profile.ages:
        return None
    fig, ax = _axes(3.1)
    groups = OLDEST // 10 + 1
    used = [i for counts in profile.ages.values() for i, n in enumerate(counts) if n]
    shown = np.arange(min(used), max(used) + 1)
    width = 0.84 / len(profile.ages)
    palette = ("#CC79A7", "#0072B2", "#999999", "#009E73", "#D55E00", "#F0C419")
    for i, (sex, counts) in enumerate(profile.ages.items()):
        at = shown + (i - (len(profile.ages) - 1) / 2) * width
        ax.bar(at, np.array(counts)[shown], width=width, color=palette[i % len(palette)], label=_sex(sex))
    names = [f"{10 * i}–{10 * i + 9}" if i < groups - 1 else f"{OLDEST}+" for i in shown]
    ax.set_xticks(shown, names, fontsize=9, rotation=35 if len(shown) > 6 else 0)
    _counts(ax, "y")
    ax.set(xlabel="age at first event", ylabel="subjects")
    _legend_below(ax, 4)
    return _finish(fig)


def splits(profile: Profile) -> str | None:
    """Subjects of the roster by split."""
    if not sum(profile.splits.values()):
        return None
    return _bars(
        {k.replace("_", " "): v for k, v in profile.splits.items()},
        [SPLIT_COLOURS[s] for s in profile.splits],
    )


def with_section(profile: Profile) -> str | None:
    """Share of subjects with at least one event of each section."""
    if not profile.totals["subjects"]:
        return None
    return _bars(profile.with_section, [COLOURS[s] for s in profile.with_section], shares=True)


def measurements(profile: Profile) -> str | None:
    """Share of measurement events that lack a number, a text, both, a unit."""
    found = {f"without {k}": v for k, v in profile.measurements.items() if v is not None}
    if not found:
        return None
    return _bars(found, [COLOURS["measurements"]] * len(found), shares=True)


def quarantine(profile: Profile) -> str | None:
    """Quarantined rows by reason."""
    if not profile.quarantine:
        return None
    return _bars(profile.quarantine, ["#D55E00"] * len(profile.quarantine))


def lags(profile: Profile) -> str | None:
    """By section: how long after it happened an event became known."""
    if not profile.lags:
        return None
    fig, ax = _axes(0.42 * len(profile.lags) + 1.3)
    places = np.arange(len(profile.lags))
    counts = np.array(list(profile.lags.values()), dtype=float)
    share = counts / counts.sum(axis=1, keepdims=True)
    left = np.zeros(len(places))
    for i, name in enumerate(LAGS):
        ax.barh(places, share[:, i], left=left, height=0.7, color=LAG_COLOURS[i], label=name)
        left += share[:, i]
    ax.set_yticks(places, list(profile.lags))
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    _shares(ax, "x")
    ax.set_xlabel("share of the section's events")
    _bare_left(ax)
    _legend_below(ax, 3)
    return _finish(fig)


def _axes(height: float) -> tuple[Figure, Axes]:
    with plt.rc_context(cast(Any, STYLE)):
        fig, ax = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    ax.set_axisbelow(True)
    return fig, ax


def _bars(values: Mapping[str, float], colours: Sequence[str], *, shares: bool = False) -> str:
    """Horizontal bars, each with its value in print."""
    fig, ax = _axes(0.4 * len(values) + 0.6)
    places = np.arange(len(values))
    numbers = np.array(list(values.values()), dtype=float)
    ax.barh(places, numbers, height=0.66, color=list(colours))
    widest = 1.0 if shares else max(numbers.max(initial=0), 1)
    for place, n in zip(places, numbers, strict=True):
        text = _percent(n) if shares else f"{n:,.0f}".replace(",", " ")
        ax.text(n + 0.015 * widest, float(place), text, va="center", fontsize=9.5, color=INK)
    ax.set_yticks(places, list(values))
    ax.invert_yaxis()
    ax.set_xlim(0, 1.16 * widest)
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)
    _bare_left(ax)
    return _finish(fig)


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "< 0.1 %"
    digits = 0 if share in (0, 1) or 0.1 <= share < 0.995 else 1
    return f"{100 * share:.{digits}f} %"


def _sex(text: str) -> str:
    return {"F": "female", "M": "male"}.get(text, text.lower())


def _bare_left(ax: Axes) -> None:
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _counts(ax: Axes, axis: str) -> None:
    def short(n: float, _: int) -> str:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if n >= size:
                return f"{n / size:g} {letter}"
        return f"{n:g}"

    (ax.yaxis if axis == "y" else ax.xaxis).set_major_formatter(FuncFormatter(short))
    ax.grid(axis=axis)  # type: ignore[arg-type]


def _shares(ax: Axes, axis: str) -> None:
    (ax.yaxis if axis == "y" else ax.xaxis).set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g} %"))
    ax.grid(axis=axis)  # type: ignore[arg-type]


def _legend_below(ax: Axes, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(  # type: ignore[union-attr]
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        handlelength=1.1,
        columnspacing=1.3,
        frameon=False,
        labelcolor=INK,
    )


def _finish(fig: Figure) -> str:
    """SVG without a background, its inks replaced by the page's own (which differ in the dark)."""
    fig.patch.set_visible(False)
    for ax in fig.axes:
        ax.patch.set_visible(False)
    with plt.rc_context(cast(Any, STYLE)):
        svg = svg_text(fig)
    for colour, name in ((INK, "ink"), (MUTED, "muted"), (RULE, "rule")):
        svg = svg.replace(colour, f"var(--{name})")
    return svg
