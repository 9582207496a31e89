"""The report of the demo: one HTML file with pictures, readable offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detector.alerts import Alert
from detector.config import DetectorSettings
from detector.demo.recording import START_MS, STEP_MS
from detector.demo.tally import Interval, Tally
from detector.html_report import CEILING, LEVEL_COLOUR, SCORE_COLOUR, boxes, page, picture, table, why

_MARGIN_ROWS = 90
_CLOSE_UPS = 6


def write_report(path: Path, tally: Tally, settings: DetectorSettings, summary: dict[str, Any]) -> None:
    """Writes the report of what the tally holds, however far the demo came."""
    intervals = tally.intervals()
    true = [interval for interval in intervals if _hits(tally, interval)]
    pictures = [_overview(tally, intervals), *(_close_up(tally, i) for i in _spread(true))]
    path.write_text(_page(tally, settings, summary, intervals, pictures), encoding="utf-8")


def _hits(tally: Tally, interval: Interval) -> bool:
    return any(interval.first < b and interval.last >= a for a, b in tally.events())


def _spread(intervals: Sequence[Interval]) -> list[Interval]:
    """A few incidents out of all, the clearest ones, in order of time."""
    clearest = sorted(intervals, key=lambda interval: -(interval.alert.score or 0.0))[:_CLOSE_UPS]
    return sorted(clearest, key=lambda interval: interval.first)


def _overview(tally: Tally, intervals: Sequence[Interval]) -> str:
    """Scores of the whole second half in four strips, with level, incidents and labelled events."""
    half, n = tally.recording.half, len(tally.nats)
    figure = Figure(figsize=(12, 9), layout="constrained")
    for axes, rows in zip(figure.subplots(4, 1), np.array_split(np.arange(half, n), 4), strict=True):
        first, last = int(rows[0]), int(rows[-1])
        axes.plot(
            _times(first, last + 1), np.minimum(tally.nats[first : last + 1], CEILING), lw=0.5, color=SCORE_COLOUR
        )
        axes.plot(_times(first, last + 1), tally.level[first : last + 1], color=LEVEL_COLOUR, lw=1, label="level")
        for number, (a, b) in enumerate((a, b) for a, b in tally.events() if a <= last and b > first):
            axes.axvspan(
                *_times(a - 3, b + 3)[[0, -1]],
                color="#f2b134",
                alpha=0.6,
                lw=0,
                label="" if number else "labelled event",
            )
        for number, i in enumerate(i for i in intervals if first <= i.first <= last):
            axes.plot(
                _times(i.first, i.first + 1),
                [-2.5],
                "|",
                color=LEVEL_COLOUR,
                ms=7,
                label="" if number else "incident opened",
            )
        axes.set(xlim=_times(first, last + 1)[[0, -1]], ylim=(-3, CEILING + 1), ylabel="−ln p (nats)")
        axes.legend(loc="upper right", fontsize=8, ncols=3)
    return picture(figure, "Scores, level, incidents and labelled events over the second half of the recording")


def _close_up(tally: Tally, interval: Interval) -> str:
    """The features that the alert names, around one incident, with what was expected of them."""
    reasons = [r for r in interval.alert.reasons[:3] if r.feature in tally.recording.metrics]
    first = max(tally.recording.half, interval.first - _MARGIN_ROWS)
    last = min(len(tally.nats), interval.last + _MARGIN_ROWS)
    figure = Figure(figsize=(12, 1.6 * (len(reasons) + 1)), layout="constrained")
    score, *rest = figure.subplots(len(reasons) + 1, 1, sharex=True, squeeze=False)[:, 0].tolist()
    score.plot(_times(first, last), np.minimum(tally.nats[first:last], CEILING), lw=1, color=SCORE_COLOUR)
    score.plot(_times(first, last), tally.level[first:last], color=LEVEL_COLOUR, lw=1)
    score.set_ylabel("−ln p")
    for axes, reason in zip(rest, reasons, strict=True):
        column = tally.recording.metrics.index(reason.feature)
        axes.plot(_times(first, last), tally.recording.values[first:last, column], lw=1, color=SCORE_COLOUR)
        if isinstance(reason.expected, float):
            axes.plot(
                _times(interval.first, interval.first + 1), [reason.expected], "o", mfc="none", color="#1a7f4b", ms=7
            )
        axes.set_ylabel(f"{reason.feature}\n{reason.share:.0%}", fontsize=9)
    for axes in (score, *rest):
        _shade(axes, tally, interval, first, last)
    alert = interval.alert
    return picture(
        figure, f"{alert.time:%d %b %H:%M}: {alert.severity}, p = {alert.p_value:.1e}. Circle: what was expected."
    )


def _shade(axes: Axes, tally: Tally, interval: Interval, first: int, last: int) -> None:
    for a, b in tally.events():
        if a < last and b > first:
            axes.axvspan(*_times(a, b + 1)[[0, -1]], color="#f2b134", alpha=0.4, lw=0)
    axes.axvspan(*_times(interval.first, interval.last + 2)[[0, -1]], color=LEVEL_COLOUR, alpha=0.15, lw=0)


def _times(first: int, stop: int) -> np.ndarray[Any, np.dtype[np.datetime64]]:
    return (START_MS + np.arange(first, stop) * STEP_MS).astype("datetime64[ms]")


def _page(
    tally: Tally,
    settings: DetectorSettings,
    summary: dict[str, Any],
    intervals: Sequence[Interval],
    pictures: Sequence[str],
) -> str:
    overview, *close_ups = pictures
    figures = (
        (f"{summary['events_found']} of {summary['events']}", "labelled events found"),
        (
            f"{summary['false_alarms_per_day']:g} a day",
            f"false alarms; promised {summary['promised_per_day']} a day",
        ),
        (f"{summary['incidents']}", "incidents opened"),
        (f"{summary['scored']:,}", "records scored"),
    )
    rows = (_row(interval.alert, _hits(tally, interval)) for interval in intervals)
    return page(
        f"offnominal: {settings.name}",
        f"""<p class="muted">Version {escape(summary["version"])}, model {escape(summary["model"])}, trained on the
first half of the recording, read from topic {escape(settings.stream.topics[0])}. The labels were used for this page
only.</p>
""",
        boxes(figures),
        f"<h2>Scores</h2>{overview}",
        f"<h2>The clearest incidents on labelled events</h2>{''.join(close_ups)}",
        f"<h2>All incidents</h2>{table(('time', 'severity', 'p-value', 'labelled event?', 'why'), rows)}",
        """<p class="muted">Telemetry: Server Machine Dataset (MIT licence), Su et al., KDD 2019. Dates are made up; the
recording has none.</p>""",
    )


def _row(alert: Alert, hit: bool) -> tuple[str, ...]:
    verdict = '<span class="good">yes</span>' if hit else '<span class="doubt">no</span>'
    return f"{alert.time:%d %b %H:%M}", alert.severity, f"{alert.p_value:.1e}", verdict, why(alert.reasons[:3])
