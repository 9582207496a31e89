"""The report of an inspection: one HTML file, readable offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from detector.errors import SettingsError
from detector.fidelity import Fidelity
from detector.html_report import boxes, name, page, table
from detector.inspecting import pictures
from detector.inspecting.agreement import FeatureFit, Verdict
from detector.inspecting.likelihood import MARKED_TAIL, ORDINARY_TAIL, Likelihood, Spread
from detector.inspection import Inspection, InspectionFigures, ModelFigures, ModelView

_WORST = 12
"""Features that are shown at once; the others are in a table to unfold."""
_MOST_CATEGORIES = 12
_STYLE = """
:root { color-scheme: light dark }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; margin: 1rem 0 }
.card { border: 1px solid #dde4ea; border-radius: 8px; padding: .6rem .8rem; font-size: .85rem }
.card figure { margin: .3rem 0 0 }
.bar { display: block; height: .45rem; min-width: 1px; background: #33658a; margin: .15rem 0 }
.bar.drawn { background: #e69f00 }
details { margin: 1rem 0 } summary { cursor: pointer } figure img { background: white; border-radius: 6px }
@media (prefers-color-scheme: dark) {
body { background: #14191f; color: #dbe3ea } .muted { color: #9fb0bf } .figures div { background: #1f2730 }
th, td, .card { border-color: #33404c } .good { color: #5fc28f } .doubt { color: #e0a64b }
}
"""
_REMEDIES: Mapping[Verdict, str] = {
    "drifted": "These are no longer as they were when the model was fitted. Retrain, if this is how they are to be.",
    "shifted up": "Records lie above what the model draws. Train on a longer stretch, so that it has seen such times; "
    "a number that wanders off belongs in as its difference (transform: diff).",
    "shifted down": "Records lie below what the model draws. The remedy is that of a shift up.",
    "too narrow": "The model holds these for steadier than they are, and alarms too easily. Train on a longer stretch; "
    "give numbers with a long tail transform: log1p.",
    "too wide": "The model draws what records never are, and overlooks as much. Outliers in training stretch it: leave "
    "them out by feedback, use transform: log1p, or give the model more components or a larger latent.",
    "another shape": "Often a number with few values, or several ways of working. Give the model more components or "
    "a larger latent; codes belong in as categorical.",
}


def write_report(path: Path, found: Inspection) -> None:
    """Writes the report. Raises `SettingsError` where the file cannot be written."""
    figures = found.figures
    document = page(
        f"offnominal inspect: {figures.detector}",
        _head(figures),
        _likelihood(found),
        _latent(found),
        _calibration(figures),
        _fidelity(found),
        style=_STYLE,
    )
    try:
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--output '{path}' cannot be written: {error.strerror}.") from error


def _head(figures: InspectionFigures) -> str:
    beyond = sum(figures.elevated.values())
    told = ", ".join(f"{count:,} {stretch}" for stretch, count in figures.stretches.items())
    warnings = "".join(f'<p class="doubt">{escape(warning)}.</p>' for warning in figures.warnings)
    return f"""<p class="muted">What version {escape(figures.version)} knows of {figures.records:,} records from
{figures.first:%d %b %Y %H:%M} to {figures.last:%d %b %Y %H:%M} UTC: {told}. Models were fitted on the first of these
stretches only; what is said of features, and samples, is beside the records that they were not fitted on.</p>
{
        boxes(
            (
                (f"{figures.records:,}", "records looked at"),
                (f"{beyond / figures.records:.2%}", f"beyond the level; promised {figures.promised_rate:.2%}"),
                *((_off(it), f"features calibrated under {kind}") for kind, it in figures.models.items()),
            )
        )
    }{warnings or '<p class="good">Nothing is wrong with it as far as these records tell.</p>'}"""


def _off(figures: ModelFigures) -> str:
    return f"{sum(it.verdict == 'calibrated' for it in figures.features)} of {len(figures.features)}"


def _likelihood(found: Inspection) -> str:
    told = {kind: it.likelihood for kind, it in found.figures.models.items()}
    rows = (
        (escape(kind), stretch, f"{spread.rows:,}", _unit(it), *_spread(spread), _tail(spread))
        for kind, it in told.items()
        for stretch, spread in it.stretches.items()
    )
    heads = ("model", "records", "count", "unit", "mean", "lower quartile", "median", "upper quartile", "in the tail")
    return f"""<h2>How likely records are</h2>
<p>The lines should cover one another: the records that a model was fitted on are then no likelier to it than others.
In the tail are those that score higher than {1 - ORDINARY_TAIL:.0%} of the fitted ones, so {ORDINARY_TAIL:.0%} where
all is well. More than {MARKED_TAIL:.0%} of the calibration records there: the model has learned its records by heart;
train it on more of them, or make it smaller. Only of the recent ones: the stream has changed; retrain. A mean far above
the upper quartile comes from a few records that are hardly possible to the model.</p>
{pictures.scores(told, {kind: view.scores for kind, view in found.views.items()}, found.observed)}
{table(heads, rows)}
<p class="muted">Bits are −log₂ p, of numbers in spreads of each feature, so they may be below 0. A mixture and its like
price all records of their window, a causal model the newest one. A score is that of a model that gives no exact
likelihood, but a bound on it or an error of reconstruction: compare it only with itself.</p>
{"".join(_features(kind, it) for kind, it in told.items() if it.features)}"""


def _unit(it: Likelihood) -> str:
    return "bits" if it.unit == "bits" else "score, no exact likelihood"


def _spread(it: Spread) -> tuple[str, ...]:
    return tuple(f"{value:,.1f}" for value in (it.mean, *it.quartiles))


def _tail(it: Spread) -> str:
    if it.tail is None:
        return "-"
    return f'<span class="{"doubt" if it.tail > MARKED_TAIL else "good"}">{it.tail:.1%}</span>'


def _features(kind: str, it: Likelihood) -> str:
    stretches = list(it.stretches)
    rows = [(name(f.feature), *(f"{f.bits[stretch]:.2f}" for stretch in stretches)) for f in it.features]
    return f"""<h3>{escape(kind)}: bits by feature</h3>
<p>What a feature's value costs in the middling record given all the others. One that follows from the others costs
little; one that costs much more on records that were not fitted is what the model learned by heart, or what changed.
They come first.</p>{_unfolding(("feature", *stretches), rows)}"""


def _latent(found: Inspection) -> str:
    rows = (
        (
            escape(kind),
            f"{it.latent.dimensions}",
            f"{it.latent.explained:.0%}",
            f"{it.latent.samples_outside:.1%}",
            "-" if it.latent.incidents_outside is None else f"{it.latent.incidents_outside:.0%}",
        )
        for kind, it in found.figures.models.items()
    )
    drawn = "".join(pictures.plane(kind, view.latent) for kind, view in found.views.items())
    heads = ("model", "dimensions", "variance in the two shown", "samples outside", "incidents outside")
    return f"""<h2>Latent space</h2>
<p>Samples should lie where normal records do, among them and as densely: where they leave a cluster out or fill a gap,
the model is too small or was trained too briefly. Outside are points farther out than 99 % of the normal records, so
1 % of the samples should be. Incidents within the cloud are unlikely by what these two axes do not show. A model
without a latent space is shown by its records themselves.</p>{drawn}{table(heads, rows)}"""


def _calibration(figures: InspectionFigures) -> str:
    return f"""<h2>Calibration of each feature</h2>
<p>Each record's value becomes the share of the model's samples below it. Flat within the grey band of chance is right.
High on one side: the records are shifted. High at both ends: the model is too narrow. High in the middle: too wide.
Records that follow one another are alike, so the band is somewhat too strict. The distance is 0 to 1; beside it is that
of the fitted records, which no model can be better than: where it is as large, the feature has drifted.</p>
{"".join(_calibrated(kind, it.features) for kind, it in figures.models.items())}"""


def _calibrated(kind: str, fits: Sequence[FeatureFit]) -> str:
    worst = [fit for fit in fits if fit.transform][:_WORST]
    found: dict[Verdict, list[str]] = {}
    for fit in fits:
        found.setdefault(fit.verdict, []).append(fit.feature)
    remedies = [
        f"<p><b>{escape(verdict)}</b> ({escape(_listed(found[verdict]))}): {escape(remedy)}</p>"
        for verdict, remedy in _REMEDIES.items()
        if verdict in found
    ]
    rows = (
        (name(fit.feature), _word(fit), f"{fit.distance:.2f}", "-" if fit.expected is None else f"{fit.expected:.2f}")
        for fit in fits
    )
    return f"""<h3>{escape(kind)}</h3>
{_cards((fit.feature, pictures.transform(fit)) for fit in worst)}
{_cards((fit.feature, _frequencies(fit)) for fit in [fit for fit in fits if fit.frequencies][:_WORST])}
{"".join(remedies)}<details><summary>All {len(fits)} features</summary>
{table(("feature", "verdict", "distance", "of fitted records"), rows)}</details>"""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_WORST]) + (", …" if len(names) > _WORST else "")


def _word(fit: FeatureFit) -> str:
    return f'<span class="{"good" if fit.verdict == "calibrated" else "doubt"}">{fit.verdict}</span>'


def _frequencies(fit: FeatureFit) -> str:
    most = max(map(max, fit.frequencies.values()))
    rows = (
        (
            name(category),
            f'<i class="bar" style="width:{100 * real / most:.1f}%"></i>'
            f'<i class="bar drawn" style="width:{100 * drawn / most:.1f}%"></i>',
            f"{real:.1%}, {drawn:.1%}",
        )
        for category, (real, drawn) in list(fit.frequencies.items())[:_MOST_CATEGORIES]
    )
    return f"{_word(fit)}; distance {fit.distance:.2f}{table(('', 'records over samples', ''), rows)}"


def _fidelity(found: Inspection) -> str:
    kinds = found.figures.models
    told = "".join(_generated(kind, kinds[kind], found.views[kind], found) for kind in kinds)
    return f"""<h2>Real against generated</h2>
<p>What <code>offnominal generate</code> would draw, beside records that the models were not fitted on, in the
records' own units: blue and filled are records, the orange line is samples. Where they part, made-up records, and what
alerts tell as expected, are that far off. Of the figures, those of samples should come near those of real records.</p>
{told}"""


def _generated(kind: str, figures: ModelFigures, view: ModelView, found: Inspection) -> str:
    decode = found.bundle.encoder.decode
    real, drawn = decode(found.real), decode(view.drawn)
    worst = [fit for fit in figures.features if fit.transform][:_WORST]
    pairs = (
        (
            name(" and ".join(it.columns)),
            f"{it.observed:.2f}",
            f"{it.generated:.2f}",
            "-" if it.fitted is None else f"{it.fitted:.2f}",
        )
        for it in figures.correlations
    )
    legend = enumerate(view.correlations.names, 1)
    cards = [(fit.feature, pictures.marginal(fit, real[fit.feature], drawn[fit.feature])) for fit in worst]
    return f"""<h3>{escape(kind)}</h3>{_likeness(figures.fidelity)}{_cards(cards)}
{_correlations(kind, view)}
{table(("columns that differ most", "records", "generated", "fitted records"), pairs)}
<details><summary>Columns by number</summary><p>{", ".join(f"{n} {escape(it)}" for n, it in legend)}</p></details>"""


def _correlations(kind: str, view: ModelView) -> str:
    """Nothing where there is no pair of columns."""
    if len(view.correlations.names) < 2:
        return ""
    return f"""<p>Correlations: the difference should be pale. A dark line across is a feature that the model takes for
independent of the others, or the other way round; where fitted records differ as much, the stream has changed.</p>
{pictures.matrices(kind, view.correlations)}"""


def _likeness(found: Fidelity | None) -> str:
    if found is None:
        return '<p class="muted">Records that the version was fitted on are not among these: give more.</p>'
    real = found.expected.model_dump()
    rows = (
        (escape(what.replace("_", " ")), f"{value:.3g}", f"{real[what]:.3g}")
        for what, value in found.generated.model_dump().items()
    )
    return table(("", "samples", "real records"), rows)


def _cards(parts: Iterable[tuple[str, str]]) -> str:
    """Names out of records, and HTML."""
    cards = "".join(f'<div class="card">{name(title)}{content}</div>' for title, content in parts)
    return f'<div class="cards">{cards}</div>' if cards else ""


def _unfolding(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose later rows are unfolded."""
    rest = f"<details><summary>{len(rows) - _WORST} more</summary>{table(heads, rows[_WORST:])}</details>"
    return table(heads, rows[:_WORST]) + (rest if len(rows) > _WORST else "")
