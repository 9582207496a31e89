"""The command `offnominal`. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector import __version__

if TYPE_CHECKING:
    from detector.config import DetectorSettings

app = typer.Typer(
    name="offnominal",
    help="Anomaly detection on Kafka streams that keeps the false-alarm budget you state.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take half of the time that --help may take
)
models = typer.Typer(
    help="Trained versions: list, show, compare, promote, roll back, pin, prune.", no_args_is_help=True
)
app.add_typer(models, name="models")

Config = Annotated[Path, typer.Option("--config", "-c", help="Settings file of the detector.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
Version = Annotated[str, typer.Argument(help="A version.", show_default=False)]


def main() -> None:
    """Runs the command line.

    Errors that name their cause are shown without a traceback; exit code 2 means settings to mend.
    """
    # One core a process: threads of torch and BLAS that wait for one another over small matrices cost more than they
    # bring, most of all on a shared machine. Must be set before either is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from consumers.errors import StreamError
    from detector.errors import OffnominalError, SettingsError

    try:
        app()
    except (OffnominalError, StreamError) as error:
        from detector.logs import escaped

        # The lines are ours; what the broker, a file or a record had to say within them is shown as text.
        lines = "\n".join(map(escaped, str(error).split("\n")))
        typer.secho(f"{type(error).__name__}: {lines}", fg="red", err=True)
        raise SystemExit(2 if isinstance(error, SettingsError) else 1) from error


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the live half of the recording is stretched.")] = 30,
    json: Json = False,
    bootstrap: Annotated[str | None, typer.Option(help="A broker to use instead of an embedded one.")] = None,
    report: Annotated[Path, typer.Option(help="Where the report is written.")] = Path("offnominal-report.html"),
) -> None:
    """See it work: a local broker, a real server's telemetry, training, live detection, a report."""
    from detector.demo.run import demonstrate

    demonstrate(seconds=seconds, as_json=json, bootstrap=bootstrap, report=report)


@app.command()
def init(
    source: Annotated[str, typer.Argument(help="A topic, or a Parquet, CSV or NDJSON file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Settings file to write.")] = Path("offnominal.yaml"),
    bootstrap: Annotated[str, typer.Option(help="Address of the broker.")] = "localhost:9092",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the settings file.")] = False,
) -> None:
    """Look at a topic or a file and write a commented settings file."""
    from detector.commands.init import write_settings

    write_settings(source, output, bootstrap=bootstrap, force=force)


@app.command()
def check(config: Config, json: Json = False) -> None:
    """Check settings, broker, topics, store and model: a tick or the reason and the remedy for each."""
    from detector.commands.check import run_checks

    raise typer.Exit(run_checks(config, as_json=json))


@app.command()
def train(config: Config, json: Json = False) -> None:
    """Fit a version from files or from the topics, and make it champion if it is sound.

    Under torchrun several processes share the gradients.
    """
    if os.environ.get("RANK", "0") != "0":  # another process reads the settings, tells and stores
        from detector.commands.train import help_training

        raise typer.Exit(help_training())
    settings = _load(config)
    from detector.commands.train import train_version

    raise typer.Exit(train_version(settings, as_json=json))


@app.command()
def retrain(
    config: Config,
    here: Annotated[bool, typer.Option("--here", help="Train in this process, not in the daemon's.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the daemon has reported.")] = False,
    json: Json = False,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Have another version trained, and promoted where it proves better: by the running daemon, or here."""
    settings = _load(config)
    from detector.commands.retrain import ask_for_training, retrain_for_daemon, retrain_here

    if child:
        raise typer.Exit(retrain_for_daemon(settings))
    if here:
        raise typer.Exit(retrain_here(settings, as_json=json))
    raise typer.Exit(ask_for_training(settings, wait=wait, as_json=json))


@app.command()
def generate(
    config: Config,
    records: Annotated[int, typer.Option(min=1, help="How many.")] = 10_000,
    output: Annotated[Path | None, typer.Option(help="File to write: .csv, .parquet or .ndjson.")] = None,
    topic: Annotated[str | None, typer.Option(help="A topic to send them to, as JSON.")] = None,
    version: Annotated[str | None, typer.Option(help="A version other than the champion.")] = None,
    model: Annotated[str | None, typer.Option(help="A model of the version; its first where none is given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same records.")] = 0,
    json: Json = False,
) -> None:
    """Draw records like the training data, and tell how like them they are."""
    settings = _load(config)
    from detector.commands.generate import generate_records

    generate_records(
        settings,
        records=records,
        output=output,
        topic=topic,
        version=version,
        model=model,
        seed=seed,
        as_json=json,
    )


@app.command()
def inspect(
    config: Config,
    version: Annotated[str | None, typer.Option(help="A version other than the champion.")] = None,
    records: Annotated[int | None, typer.Option(min=1, help="The last so many records of the topics.")] = None,
    output: Annotated[Path, typer.Option(help="HTML report to write.")] = Path("offnominal-inspection.html"),
    json: Json = False,
) -> None:
    """Write a report of what a version's models know: likelihood, latent space, calibration, samples."""
    settings = _load(config)
    from detector.commands.inspect import inspect_version

    inspect_version(settings, version=version, records=records, output=output, as_json=json)


@app.command()
def run(
    config: Config,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Score and print alerts; publish nothing.")] = False,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    settings = _load(config)
    from detector.commands.run import print_alerts_of_a_dry_run, run_daemon

    if dry_run:
        print_alerts_of_a_dry_run(settings)
    else:
        run_daemon(settings, config)


@app.command()
def backtest(
    config: Config,
    files: Annotated[list[str] | None, typer.Option(help="Parquet, CSV or NDJSON files, not the topics.")] = None,
    records: Annotated[int | None, typer.Option(min=1, help="The last so many records of the topics.")] = None,
    since: Annotated[str | None, typer.Option(help="The records of the last so much time, like 7d.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="False alarms, like 3/day or 0.001; may be repeated.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="A version other than the champion.")] = None,
    train_share: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.99, help="Train on this share of the records, the oldest; 0.5 without a champion."
        ),
    ] = None,
    ray: Annotated[
        int | None, typer.Option(min=1, help="Judge files as so many partitions, by entity, on a Ray cluster.")
    ] = None,
    json: Json = False,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.", show_default=False)] = None,
) -> None:
    """Tell what would have fired on records of the past, and publish nothing."""
    settings = _load(config)
    from detector.commands.backtest import print_backtest

    print_backtest(
        settings,
        files=files or (),
        records=records,
        since=since,
        budgets=budget or (),
        version=version,
        train_share=train_share,
        ray=ray,
        as_json=json,
        report=report,
    )


@app.command()
def alerts(
    config: Config,
    json: Json = False,
    last: Annotated[int, typer.Option(min=0, help="Begin with so many alerts of the past.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with new alerts until Ctrl-C.")] = True,
) -> None:
    """Follow the alert topic."""
    settings = _load(config)
    from detector.commands.alerts import follow_alerts

    follow_alerts(settings, as_json=json, last=last, follow=follow)


@app.command()
def notify(
    config: Config,
    test: Annotated[bool, typer.Option("--test", help="Send a test message to each channel, and end.")] = False,
) -> None:
    """Send alerts to people: Slack, mail, PagerDuty, webhooks and the like, until SIGTERM or Ctrl-C."""
    settings = _load(config)
    from detector.commands import notify

    if test:
        raise typer.Exit(notify.test_channels(settings))
    notify.notify_people(settings)


@app.command()
def feedback(
    config: Config,
    alert: Annotated[
        str | None,
        typer.Argument(help="Id of an alert or incident, or its first digits, six or more.", show_default=False),
    ] = None,
    label: Annotated[
        str | None, typer.Argument(help="false-alarm, confirmed, known, note or retract.", show_default=False)
    ] = None,
    text: Annotated[str, typer.Option(help="In words.", show_default=False)] = "",
    author: Annotated[str | None, typer.Option(help="Who says so, where it is not you.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Say what an alert was; without one, list what was said."""
    settings = _load(config)
    from detector.commands.feedback import give_feedback, list_feedback

    if alert is None:
        list_feedback(settings, as_json=json)
    elif label is None:
        raise typer.BadParameter("ALERT wants a LABEL: false-alarm, confirmed, known, note or retract.")
    else:
        give_feedback(settings, alert, label, text=text, author=author, as_json=json)


@app.command("dead-letters")
def dead_letters(
    config: Config,
    reason: Annotated[str | None, typer.Option(help="Only letters of this reason, like malformed.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last so many letters of the topic.")] = None,
    since: Annotated[str | None, typer.Option(help="Only the letters of the last so much time, like 1h.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="List all letters.")] = False,
    by_reason: Annotated[bool, typer.Option("--by-reason", help="Count by reason, do not list.")] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Send the records back to the topics they came from.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --replay: only say what would be sent.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --replay: do not ask.")] = False,
    json: Json = False,
) -> None:
    """Look at records that could not be scored, and send them back when what was wrong is mended.

    Counts them by reason, or lists them where --reason, --last, --since or --all says which.

    --replay sends each record once, however often it is asked for, with kafka.delivery: exactly_once. Records that were
    cut, are empty or could not be decoded stay. The daemon scores what comes back as it scores any record: one that is
    older than its entity's newest by more than window.late_for is taken for a clock set back.
    """
    settings = _load(config)
    from detector.commands.dead_letters import count_letters, list_letters, replay_letters, window_of

    if (dry_run or yes) and not replay:
        raise typer.BadParameter("--dry-run and --yes go with --replay.")
    if everything and (last is not None or since is not None):
        raise typer.BadParameter("--all excludes --last and --since.")
    window = window_of(last, since)
    if replay:
        replay_letters(settings, window, reason=reason, dry_run=dry_run, confirmed=yes, as_json=json)
    elif by_reason or not (everything or reason or last or since):
        count_letters(settings, window, reason=reason, as_json=json)
    else:
        list_letters(settings, window, reason=reason, as_json=json)


@models.command("list")
def models_list(config: Config, json: Json = False) -> None:
    """All versions, oldest first; the champion is marked."""
    settings = _load(config)
    from detector.commands.models import list_versions

    list_versions(settings, as_json=json)


@models.command("show")
def models_show(config: Config, version: Version) -> None:
    """The manifest of one version, as JSON."""
    settings = _load(config)
    from detector.commands.models import show_version

    show_version(settings, version)


@models.command("diff")
def models_diff(config: Config, one: Version, other: Version, json: Json = False) -> None:
    """What two versions have that the other has not, side by side."""
    settings = _load(config)
    from detector.commands.models_diff import print_difference

    print_difference(settings, one, other, as_json=json)


@models.command("promote")
def models_promote(config: Config, version: Version) -> None:
    """Make a version champion; running daemons take it up by themselves."""
    settings = _load(config)
    from detector.commands.models import promote_version

    promote_version(settings, version)


@models.command("rollback")
def models_rollback(config: Config) -> None:
    """Make the champion's predecessor champion again."""
    settings = _load(config)
    from detector.commands.models import roll_back

    roll_back(settings)


@models.command("pin")
def models_pin(config: Config, version: Version) -> None:
    """Make a version champion, and let no retraining take its place."""
    settings = _load(config)
    from detector.commands.models import pin_version

    pin_version(settings, version)


@models.command("unpin")
def models_unpin(config: Config) -> None:
    """Let retraining replace the champion again."""
    settings = _load(config)
    from detector.commands.models import unpin_version

    unpin_version(settings)


@models.command("prune")
def models_prune(
    config: Config,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest versions to keep; store.keep where not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Delete old versions; what serves, served before or is on trial stays."""
    settings = _load(config)
    from detector.commands.models import prune_versions

    prune_versions(settings, keep=keep, as_json=json)


def _load(config: Path) -> DetectorSettings:
    """Settings first, so that a wrong one is told before anything heavy is imported."""
    from detector import logs
    from detector.loading import load

    logs.configure()
    return load(config)
