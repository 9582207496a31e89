"""`offnominal init`: looks at a topic or a file and writes a settings file."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from consumers import clients
from consumers.settings import KafkaSettings
from consumers.stream import Window
from detector.errors import SettingsError
from detector.files import sample_files
from detector.inference import SAMPLE_RECORDS, infer, render

FALSE_ALARMS = "3/day"
"""Budget written into a new settings file: about what one person looks into."""
_FILES = (".parquet", ".csv", ".ndjson", ".jsonl")


def write_settings(source: str, output: Path, *, bootstrap: str, force: bool) -> None:
    """Writes settings for the records in `source`.

    Raises `SettingsError` where there are none, or `output` is there already.
    """
    if output.exists() and not force:
        raise SettingsError(f"'{output}' is there already. Give another --output, or --force to overwrite it.")
    is_file = source.endswith(_FILES)
    sample = sample_files([source], SAMPLE_RECORDS) if is_file else _sample_topic(source, bootstrap)
    inferred = infer(sample)
    if not inferred.features:
        raise SettingsError(f"No usable fields in {len(sample)} records of '{source}': {dict(inferred.notes)}")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem if is_file else source)[:100].strip("-._") or "detector"
    topic, files = (name, [str(Path(source).absolute())]) if is_file else (source, [])
    text = render(inferred, name=name, bootstrap=bootstrap, topic=topic, false_alarms=FALSE_ALARMS, files=files)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"'{output}' cannot be written: {error.strerror}.") from error
    Console().print(
        f"{escape(str(output))}: {len(inferred.features)} features, entity {escape(inferred.entity or 'none')}, "
        f"timestamp {escape(inferred.timestamp or 'the broker')}, from {len(sample):,} records.\n"
        f"Next: [bold]offnominal train -c {escape(str(output))}[/], then [bold]offnominal run[/] with the same."
    )


def _sample_topic(topic: str, bootstrap: str) -> list[bytes | None]:
    broker = clients.broker(KafkaSettings(bootstrap=bootstrap), group="offnominal-init", client_id="offnominal-init")
    batches = broker.read([topic], Window(records=SAMPLE_RECORDS))
    sample = list(islice((value for batch in batches for value in batch.values), SAMPLE_RECORDS))
    if not sample:
        raise SettingsError(f"Topic '{topic}' holds no records to look at.")
    return sample
