"""The report of a backtest: one HTML file, readable offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detector.alerts import event_time
from detector.backtest import Backtest, BacktestFigures, BudgetFigures, summary
from detector.errors import SettingsError
from detector.html_report import CEILING, LEVEL_COLOUR, SCORE_COLOUR, boxes, name, page, picture, table, why
from detector.incident_log import LoggedIncident
from detector.timeline import DAY_MS, WIDTHS_MS, Timeline

_MOST_BARS = 60
_DAYS = (4.0, 120.0)
"""Days that are shown a bar each."""
_GAP = 3.0
"""Bins so many times farther apart than usual have no line between them."""
_NARROWEST = 0.3
"""Least width of an incident in its lane, in per cent of the time shown: a shorter one could not be seen."""
_STYLE = """
.lane { position: relative; height: 1.1rem; min-width: 30rem; background: #f2f5f8; overflow: hidden }
.lane i { position: absolute; top: 0; bottom: 0 } .promise { border-left: 2px solid #1c2733 }
.minor { background: #f2b134 } .major { background: #e07b39 } .critical { background: #b3261e }
.rate { background: #33658a } .key i { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }
"""
_KEY = "".join(f'<i class="{severity}"></i>{severity}' for severity in ("minor", "major", "critical"))


def write_report(path: Path, found: Backtest) -> None:
    """Writes the report. Raises `SettingsError` where the file cannot be written."""
    figures = found.figures
    document = page(
        f"offnominal backtest: {figures.detector}",
        _head(figures),
        *map(_section, figures.budgets, found.timelines),
        style=_STYLE,
    )
    try:
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--report '{path}' cannot be written: {error.strerror}.") from error


def _head(figures: BacktestFigures) -> str:
    first, *_ = figures.budgets
    made = ", trained for this on the records before them" if figures.trained_here else ""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in figures.dead_letters.items()) or "none"
    warnings = "".join(f'<p class="doubt">{escape(warning)}</p>' for warning in figures.warnings)
    compared = table(
        ["under the budget", *(budget.budget for budget in figures.budgets)],
        ([escape(label), *map(escape, told)] for label, told in summary(figures)),
    )
    return f"""<p class="muted">What would have fired on records from {figures.first:%d %b %Y %H:%M} to
{figures.last:%d %b %Y %H:%M} UTC. Version {escape(figures.version)}{made}. Dead letters: {escape(left_out)}.</p>
{
        boxes(
            (
                (f"{figures.records:,}", f"records in {figures.days:.3g} days"),
                (f"{first.incidents:,}", f"incidents under {first.budget}"),
                (f"{first.incidents_per_day:.3g}", "incidents a day"),
                (f"{first.alarms_per_day:.3g}", f"alarms a day; promised {first.promised_per_day:.3g}"),
            )
        )
    }{warnings}{compared}"""


def _section(budget: BudgetFigures, timeline: Timeline) -> str:
    more = budget.incidents - len(budget.listed)
    rest = f", the {len(budget.listed):,} most unlikely of {budget.incidents:,}" if more else ""
    return f"""<h2>Under {escape(budget.budget)}</h2>{_over_time(timeline)}
<h3>Who it was</h3>{_lanes(budget, timeline)}
<h3>Who bears the alarms</h3>{_rates(budget)}
<h3>All incidents{rest}</h3>{_incidents(budget.listed)}"""


def _over_time(timeline: Timeline) -> str:
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    scores, opened, alarms = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    at = _times(timeline.start)
    apart = np.append(np.diff(timeline.start), 0)
    gap = np.where(apart > _GAP * np.median(apart), np.nan, 0.0)
    scores.plot(at, np.minimum(timeline.peak, CEILING) + gap, lw=0.7, color=SCORE_COLOUR, label="highest −ln p")
    scores.plot(at, timeline.level + gap, lw=1.2, color=LEVEL_COLOUR, label="mean level")
    scores.set(ylim=(0, CEILING + 1), ylabel="nats", xlim=_times(np.array(timeline.span)))
    bars = _bars(timeline)
    start, width, unit = _times(bars.start), np.timedelta64(bars.width_ms, "ms"), WIDTHS_MS[bars.width_ms]
    opened.bar(start, bars.opened, width, align="edge", color=SCORE_COLOUR, edgecolor="white", lw=0.5)
    opened.set_ylabel(f"incidents per {unit}")
    alarms.bar(start, bars.alarms, width, align="edge", color=SCORE_COLOUR, edgecolor="white", lw=0.5, label="alarms")
    alarms.hlines(bars.promised, start, start + width, color=LEVEL_COLOUR, lw=2, label="promised")
    alarms.set_ylabel(f"alarms per {unit}")
    for axes in (scores, alarms):
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8, ncols=2)
    return picture(figure, "Scores and level, incidents opened, and alarms against the promise, over event time (UTC)")


def _bars(timeline: Timeline) -> Timeline:
    """By the day, as budgets are, where that makes a picture; else as narrow as there is room for."""
    first, most = _DAYS
    return timeline.pooled(DAY_MS) if first <= timeline.days <= most else timeline.at_most(_MOST_BARS)


def _times(milliseconds: NDArray[np.int64]) -> NDArray[np.datetime64]:
    return milliseconds.astype("datetime64[ms]")


def _lanes(budget: BudgetFigures, timeline: Timeline) -> str:
    """The incidents of each of the most troubled entities, along the time shown."""
    first, last = timeline.span
    rows = [
        (name(it.entity), f"{it.incidents:,}", f"{it.share:.0%}", _lane(budget.listed, it.entity, first, last))
        for it in budget.entities
    ]
    if not rows:
        return "<p>No incidents.</p>"
    ends = f"{event_time(first):%d %b %Y %H:%M} to {event_time(last):%d %b %Y %H:%M} UTC"
    return f'{table(("entity", "incidents", "share", ends), rows)}<p class="muted key">{_KEY}</p>'


def _lane(incidents: Sequence[LoggedIncident], entity: str, first: int, last: int) -> str:
    spans = []
    for it in incidents:
        if it.entity == entity:
            left = _per_cent(it.opened.timestamp() * 1000, first, last)
            right = _per_cent(it.resolved.timestamp() * 1000, first, last) if it.resolved else 100.0
            spans.append(
                f'<i class="{it.severity}" style="left:{left:.2f}%;width:{max(_NARROWEST, right - left):.2f}%" '
                f'title="{it.severity}, p {it.p_value:.1e}, {it.opened:%d %b %H:%M}"></i>'
            )
    return f'<div class="lane">{"".join(spans)}</div>'


def _per_cent(value: float, first: float, last: float) -> float:
    return min(100.0, max(0.0, 100 * (value - first) / (last - first)))


def _rates(budget: BudgetFigures) -> str:
    """Realised rate of each segment beside the promise, so that nobody bears all the false alarms unseen."""
    if not budget.by_segment:
        return "<p>No group has had so many records that an alarm was promised.</p>"
    most = max(2.0, *(it.ratio for it in budget.by_segment))
    rows = (
        (
            name(it.segment),
            f"{it.records:,}",
            f"{it.alarms:,}",
            f"{it.realised_rate:.3g}",
            f"{it.ratio:.2f}×",
            f'<div class="lane"><i class="rate" style="width:{100 * it.ratio / most:.1f}%"></i>'
            f'<i class="promise" style="left:{100 / most:.1f}%"></i></div>',
        )
        for it in budget.by_segment
    )
    return table(("group", "records", "alarms", "a record", "of the promise", "line: the promise"), rows)


def _incidents(incidents: Sequence[LoggedIncident]) -> str:
    rows = (
        (
            f"{it.opened:%Y-%m-%d %H:%M:%S}",
            it.lasted,
            name(it.entity),
            it.severity,
            f"{it.p_value:.1e}",
            why(it.reasons),
        )
        for it in incidents
    )
    return table(("opened", "lasted", "entity", "severity", "p-value", "why"), rows)
