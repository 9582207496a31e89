"""The live view in the terminal."""

from __future__ import annotations

import numpy as np
from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from detector.alerts import Alert
from detector.commands.terminal import SEVERITY_COLOURS, shown
from detector.config import DetectorSettings
from detector.demo.tally import Tally

_BARS = " ▁▂▃▄▅▆▇█"
_INCIDENTS = 4
_REASONS = 3


def render(tally: Tally, settings: DetectorSettings, total: int, width: int) -> Group:
    """One frame: how fast, how well the budget is kept, what is open and why."""
    return Group(
        Panel(
            _figures(tally, settings, total), title="offnominal demo", subtitle="Ctrl-C ends it", border_style="cyan"
        ),
        Panel(
            _skyline(tally, max(20, width - 4)),
            title="−ln p of the last records, and the level (│ red: beyond it)",
            title_align="left",
            border_style="dim",
        ),
        Panel(_incidents(tally), title="incidents, newest first", title_align="left", border_style="dim"),
    )


def _figures(tally: Tally, settings: DetectorSettings, total: int) -> Table:
    table = Table.grid(padding=(0, 3), expand=True)
    for _ in range(3):
        table.add_column(ratio=1)
    scored, speed = tally.scored, tally.records / tally.seconds if tally.seconds else 0.0
    opened = sum(alert.kind == "opened" for alert in tally.alerts)
    table.add_row(
        f"scored [bold]{scored:,}[/] of {total:,}", f"[bold]{speed:,.0f}[/] records/s", f"lag [bold]{tally.lag:,}[/]"
    )
    table.add_row(
        f"budget [bold]{settings.alerts.false_alarms}[/]",
        f"false alarms [bold]{tally.false_alarms_per_day():.1f}[/] a day",
        f"[bold]{opened}[/] incidents",
    )
    table.add_row(
        f"topic [dim]{settings.stream.topics[0]}[/]",
        f"alerts on [dim]{settings.alerts.topic}[/]",
        f"[dim]{tally.version}[/]",
    )
    table.add_row(ProgressBar(total=total, completed=scored), "", "")
    return table


def _skyline(tally: Tally, width: int) -> Text:
    """The highest −ln p, in parts of the level, in each of `width` stretches of the last records."""
    scored = np.isfinite(tally.nats)
    seen = (tally.nats[scored] / tally.level[scored])[-8 * width :]
    text = Text()
    for stretch in np.array_split(seen, width) if len(seen) >= width else []:
        peak = float(stretch.max())
        text.append(_BARS[int(np.clip(peak / 2 * 8, 0, 8))], "red" if peak >= 1 else "green")
    return text


def _incidents(tally: Tally) -> Table:
    table = Table.grid(padding=(0, 2))
    is_open = {alert.incident for alert in tally.open_alerts()}
    opened = [alert for alert in tally.alerts if alert.kind == "opened"]
    for alert in reversed(opened[-_INCIDENTS:]):
        table.add_row(
            "[bold]open[/]" if alert.incident in is_open else "[green]resolved[/]",
            f"[{SEVERITY_COLOURS[alert.severity]}]{alert.severity}[/]",
            f"{alert.time:%d %b %H:%M}",
            shown(alert.entity),
            f"p {alert.p_value:.0e}",
            _why(alert),
        )
    if not opened:
        table.add_row("[dim]none yet[/]")
    return table


def _why(alert: Alert) -> str:
    return ", ".join(
        f"{reason.share:.0%} {shown(reason.feature)} {shown(reason.observed)} [dim]expected {shown(reason.expected)}[/]"
        for reason in alert.reasons[:_REASONS]
    )
