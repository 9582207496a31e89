"""What reports are made of: one HTML file with pictures that opens offline and holds nothing that could run."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from detector.alerts import Reason

mpl.use("Agg")

CEILING = 25.0
"""Nats at which pictures of scores are cut off."""
SCORE_COLOUR, LEVEL_COLOUR = "#33658a", "#c8553d"
_SAFETY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c2733; }
h1 { margin-bottom: 0 } .muted { color: #5b6b7b } figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
.figures div { background: #f2f5f8; border-radius: 8px; padding: .8rem 1.2rem; flex: 1 }
.figures b { display: block; font-size: 1.6rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #dde4ea; vertical-align: top }
td:first-child { white-space: nowrap }
.name { display: inline-block; min-width: 7rem; max-width: 20rem; overflow-wrap: anywhere; white-space: normal }
.good { color: #1a7f4b } .doubt { color: #9a5b00 }
"""


def page(title: str, *parts: str, style: str = "") -> str:
    """A whole document out of parts that are HTML already; the title is text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_SAFETY}">
<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>
<h1>{escape(title)}</h1>
{"".join(parts)}
</body></html>
"""


def boxes(figures: Iterable[tuple[str, str]]) -> str:
    """Figures to begin with: of each its value and what it is, both text."""
    return (
        f'<div class="figures">{"".join(f"<div><b>{escape(v)}</b>{escape(what)}</div>" for v, what in figures)}</div>'
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; heads are text, cells are HTML."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def picture(figure: Figure, caption: str) -> str:
    """A figure within the page. Names out of records do not belong into it: no font has the letters of all scripts, and
    matplotlib takes a $ for the beginning of a formula."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f'<figure>{image}<figcaption class="muted">{escape(caption)}</figcaption></figure>'


def name(text: str) -> str:
    """A name out of records, however long."""
    return f'<span class="name">{escape(text or "-")}</span>'


def why(reasons: Sequence[Reason]) -> str:
    """The reasons of an alert."""
    return "; ".join(
        f"<b>{escape(reason.feature)}</b> {_value(reason.observed)}, expected {_value(reason.expected)} "
        f"({reason.share:.0%})"
        for reason in reasons
    )


def _value(value: float | str | bool | None) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "missing" if value is None else escape(str(value))
