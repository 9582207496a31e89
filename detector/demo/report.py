"""The report of the demo: one HTML file with pictures, readable offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detector.alerts import Alert
from detector.config import DetectorSettings
from detector.demo.recording import START_MS, STEP_MS
from detector.demo.tally import Interval, Tally

mpl.use("Agg")

_MARGIN_ROWS = 90
_CLOSE_UPS = 6
_CEILING = 25.0
"""Nats at which the picture of the scores is cut off."""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c2733; }
h1 { margin-bottom: 0 } .muted { color: #5b6b7b } img { max-width: 100%; height: auto }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
.figures div { background: #f2f5f8; border-radius: 8px; padding: .8rem 1.2rem; flex: 1 }
.figures b { display: block; font-size: 1.6rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #dde4ea; vertical-align: top }
.found { color: #1a7f4b } .false { color: #9a5b00 }
"""


def write_report(path: Path, tally: Tally, settings: DetectorSettings, summary: dict[str, Any]) -> None:
    """Writes the report of what the tally holds, however far the demo came."""
    intervals = tally.intervals()
    true = [interval for interval in intervals if _hits(tally, interval)]
    pictures = [_overview(tally, settings, intervals), *(_close_up(tally, i, settings) for i in _spread(true))]
    path.write_text(_page(tally, settings, summary, intervals, pictures), encoding="utf-8")


def _hits(tally: Tally, interval: Interval) -> bool:
    return any(interval.first < b and interval.last >= a for a, b in tally.events())


def _spread(intervals: Sequence[Interval]) -> list[Interval]:
    """A few incidents out of all, the clearest ones, in order of time."""
    clearest = sorted(intervals, key=lambda interval: -interval.alert.score)[:_CLOSE_UPS]
    return sorted(clearest, key=lambda interval: interval.first)


def _overview(tally: Tally, settings: DetectorSettings, intervals: Sequence[Interval]) -> str:
    """Scores of the whole second half in four strips, with level, incidents and labelled events."""
    half, n = tally.recording.half, len(tally.nats)
    figure = Figure(figsize=(12, 9), layout="constrained")
    for axes, rows in zip(figure.subplots(4, 1), np.array_split(np.arange(half, n), 4), strict=True):
        first, last = int(rows[0]), int(rows[-1])
        axes.plot(_times(first, last + 1), np.minimum(tally.nats[first : last + 1], _CEILING), lw=0.5, color="#33658a")
        axes.axhline(-np.log(settings.alerts.rate), color="#c8553d", lw=1, label="level")
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
                color="#c8553d",
                ms=7,
                label="" if number else "incident opened",
            )
        axes.set(xlim=_times(first, last + 1)[[0, -1]], ylim=(-3, _CEILING + 1), ylabel="−ln p (nats)")
        axes.legend(loc="upper right", fontsize=8, ncols=3)
    return _picture(figure, "Scores, level, incidents and labelled events over the second half of the recording")


def _close_up(tally: Tally, interval: Interval, settings: DetectorSettings) -> str:
    """The features that the alert names, around one incident, with what was expected of them."""
    reasons = [r for r in interval.alert.reasons[:3] if r.feature in tally.recording.metrics]
    first = max(tally.recording.half, interval.first - _MARGIN_ROWS)
    last = min(len(tally.nats), interval.last + _MARGIN_ROWS)
    figure = Figure(figsize=(12, 1.6 * (len(reasons) + 1)), layout="constrained")
    score, *rest = figure.subplots(len(reasons) + 1, 1, sharex=True, squeeze=False)[:, 0].tolist()
    score.plot(_times(first, last), np.minimum(tally.nats[first:last], _CEILING), lw=1, color="#33658a")
    score.axhline(-np.log(settings.alerts.rate), color="#c8553d", lw=1)
    score.set_ylabel("−ln p")
    for axes, reason in zip(rest, reasons, strict=True):
        column = tally.recording.metrics.index(reason.feature)
        axes.plot(_times(first, last), tally.recording.values[first:last, column], lw=1, color="#33658a")
        if isinstance(reason.expected, float):
            axes.plot(
                _times(interval.first, interval.first + 1), [reason.expected], "o", mfc="none", color="#1a7f4b", ms=7
            )
        axes.set_ylabel(f"{reason.feature}\n{reason.share:.0%}", fontsize=9)
    for axes in (score, *rest):
        _shade(axes, tally, interval, first, last)
    alert = interval.alert
    return _picture(
        figure, f"{alert.time:%d %b %H:%M}: {alert.severity}, p = {alert.p_value:.1e}. Circle: what was expected."
    )


def _shade(axes: Axes, tally: Tally, interval: Interval, first: int, last: int) -> None:
    for a, b in tally.events():
        if a < last and b > first:
            axes.axvspan(*_times(a, b + 1)[[0, -1]], color="#f2b134", alpha=0.4, lw=0)
    axes.axvspan(*_times(interval.first, interval.last + 2)[[0, -1]], color="#c8553d", alpha=0.15, lw=0)


def _times(first: int, stop: int) -> np.ndarray[Any, np.dtype[np.datetime64]]:
    return (START_MS + np.arange(first, stop) * STEP_MS).astype("datetime64[ms]")


def _picture(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f'<figure>{image}<figcaption class="muted">{escape(caption)}</figcaption></figure>'


def _page(
    tally: Tally,
    settings: DetectorSettings,
    summary: dict[str, Any],
    intervals: Sequence[Interval],
    pictures: Sequence[str],
) -> str:
    overview, *close_ups = pictures
    boxes = (
        (f"{summary['events_found']} of {summary['events']}", "labelled events found"),
        (
            f"{summary['realised_rate']:.2%}",
            f"of normal records beyond the level; promised {summary['promised_rate']:.2%}",
        ),
        (f"{summary['incidents']}", "incidents opened"),
        (f"{summary['scored']:,}", "records scored"),
    )
    figures = "".join(f"<div><b>{escape(value)}</b>{escape(label)}</div>" for value, label in boxes)
    rows = "".join(_row(interval.alert, _hits(tally, interval)) for interval in intervals)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>offnominal: {escape(settings.name)}</title><style>{_STYLE}</style></head><body>
<h1>offnominal: {escape(settings.name)}</h1>
<p class="muted">Version {escape(summary["version"])}, model {escape(summary["model"])}, trained on the first half of
the recording, read from topic {escape(settings.stream.topics[0])}. The labels were used for this page only.</p>
<div class="figures">{figures}</div>
<h2>Scores</h2>{overview}
<h2>The clearest incidents on labelled events</h2>{"".join(close_ups)}
<h2>All incidents</h2><div class="wide"><table>
<tr><th>time</th><th>severity</th><th>p-value</th><th>labelled event?</th><th>why</th></tr>
{rows}</table></div>
<p class="muted">Telemetry: Server Machine Dataset (MIT licence), Su et al., KDD 2019. Dates are made up; the recording
has none.</p>
</body></html>
"""


def _row(alert: Alert, hit: bool) -> str:
    why = "; ".join(
        f"<b>{escape(r.feature)}</b> {_value(r.observed)}, expected {_value(r.expected)} ({r.share:.0%})"
        for r in alert.reasons[:3]
    )
    verdict = '<span class="found">yes</span>' if hit else '<span class="false">no</span>'
    cells = (f"{alert.time:%d %b %H:%M}", alert.severity, f"{alert.p_value:.1e}", verdict, why)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _value(value: float | str | bool | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))
