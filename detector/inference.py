"""Settings by looking: which field of a sample names the entity, which the time, and what the others are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from consumers.fields import join_path, milliseconds, number_column, split_path
from consumers.text import printable
from detector.config import FeatureKind, FeatureSettings
from detector.errors import TrainingError

SAMPLE_RECORDS = 2_000
"""Records looked at to infer features."""

# Words that name an entity, or the time of an event: the most telling first.
ENTITY_WORDS = (
    *("machine", "host", "hostname", "device", "sensor", "instance", "pod", "node", "server", "container"),
    *("entity", "service", "user", "account", "customer", "id"),
)
ENTITY_SUFFIXES = ("id", "name", "uuid", "key", "number")
TIME_WORDS = ("timestamp", "ts", "time", "datetime", "date", "at")
NEARLY_ALL = 0.95
"""Share of the records that must have an entity or a time for the field to be it."""
MIN_PRESENT = 0.1
"""A field in a smaller share of the records is left out."""
MAX_CATEGORIES = 50
MAX_CATEGORY_SHARE = 0.2
"""A text with more different values than either allows (the latter as a share of its records) is no category."""
MIN_COUNTER_STEPS = 20
"""A field with fewer steps from one record of an entity to its next is not called a counter."""
MAX_DEPTH = 8
_PLAUSIBLE_MS = (946_684_800_000, 4_102_444_800_000)  # the years 2000 to 2100
_LARGEST = 2**1023  # a larger integer is no float64

_Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inferred:
    """What a sample looks like. `notes` says of each field found what was seen in it, or why it is no feature."""

    entity: str | None
    timestamp: str | None
    features: tuple[FeatureSettings, ...]
    notes: Mapping[str, str]


@dataclass(slots=True)
class _Field:
    """The values of one field that are not null, and the numbers of the records they came from."""

    rows: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    @property
    def types(self) -> set[type]:
        return set(map(type, self.values))

    @property
    def texts(self) -> Counter[str]:
        """How often each value was seen, written as the decoder would."""
        return Counter(value if isinstance(value, str) else str(value).lower() for value in self.values)


@dataclass(slots=True)
class _Sample:
    """The JSON objects of a sample: how many there are, and every field in them."""

    records: int = 0
    fields: dict[_Names, _Field] = field(default_factory=dict)


def infer(values: Sequence[bytes | None]) -> Inferred:
    """Entity, time and features of JSON records in the order they came. What is no JSON object is passed over."""
    sample = _sample(values)
    return _inferred(sample, _best(sample, _entity_rank), _best(sample, _time_rank))


def infer_features(
    values: Sequence[bytes | None], entity: str | None, timestamp: str | None
) -> tuple[FeatureSettings, ...]:
    """Features of JSON records whose entity and time fields are known. Raises `TrainingError` where none is usable."""
    inferred = _inferred(_sample(values), entity, timestamp)
    if not inferred.features:
        seen = "; ".join(f"{path}: {note}" for path, note in inferred.notes.items()) or "no JSON objects"
        raise TrainingError(
            f"features: auto found none in {len(values)} records ({seen}). Expected numbers or categories."
        )
    return inferred.features


def render(
    inferred: Inferred, *, name: str, bootstrap: str, topic: str, false_alarms: str, files: Sequence[str] = ()
) -> str:
    """A settings file of what was inferred: each feature with what was seen of it, the left-out fields with why.

    Training is on `files` where there are any, else on the topic.
    """
    keys = {"entity": inferred.entity, "timestamp": inferred.timestamp}
    used = {*keys.values(), *(feature.name for feature in inferred.features)}
    features = [feature.model_dump(include={"name", "kind"}) for feature in inferred.features]
    left_out = [f"  # {_comment(f'{path}: {note}')}" for path, note in inferred.notes.items() if path not in used]
    lines = [
        "# Written by `offnominal init` from a look at the records. Check what each field was taken for, then train.",
        f"name: {yaml_line(name)}",
        "kafka:",
        f"  bootstrap: {yaml_line(bootstrap)}",
        "stream:",
        f"  topics: {yaml_line([topic])}",
        *(f"  {key}: {yaml_line(path)}  # {_comment(inferred.notes[path])}" for key, path in keys.items() if path),
        "features:" if features else "features: auto  # nothing usable was seen",
        *(f"  - {yaml_line(feature)}  # {_comment(inferred.notes[feature['name']])}" for feature in features),
        *(["  # Left out:", *left_out] if left_out else []),
        *([f"training: {{files: {yaml_line(list(files))}}}"] if files else []),
        "alerts:",
        f"  topic: {yaml_line(f'{topic[:240]}-alerts')}",
        f"  false_alarms: {yaml_line(false_alarms)}  # as many as are bearable, of all entities together",
    ]
    return "\n".join(lines) + "\n"


def yaml_line(value: object) -> str:
    """The value on one line of YAML, quoted where it must be; escaped where some letter could not be shown."""
    for as_it_is in (True, False):
        line = yaml.safe_dump(
            value, default_flow_style=True, allow_unicode=as_it_is, sort_keys=False, width=1_000_000
        ).removesuffix("...\n")
        if line.rstrip("\n").isprintable():
            break
    return line.rstrip("\n")


def _comment(text: str) -> str:
    return printable(text, 120)


def _sample(values: Sequence[bytes | None]) -> _Sample:
    sample = _Sample()
    for value in values:
        try:
            record = msgspec.json.decode(value or b"")
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        for names, item in _flattened(record, ()):
            seen = sample.fields.setdefault(names, _Field())
            if item is not None and not (isinstance(item, int) and abs(item) >= _LARGEST):
                seen.rows.append(sample.records)
                seen.values.append(item)
        sample.records += 1
    return sample


def _flattened(record: dict[str, Any], outer: _Names) -> Iterator[tuple[_Names, Any]]:
    for name, item in record.items():
        names = (*outer, name)
        if isinstance(item, dict) and len(names) < MAX_DEPTH:
            yield from _flattened(item, names)
        else:
            yield names, item


def _best(sample: _Sample, rank: Callable[[_Names, _Field], tuple[float, float] | None]) -> str | None:
    """The field of the lowest rank out of those that have one and are in nearly all records."""
    ranked = [
        (found, join_path(names))
        for names, seen in sample.fields.items()
        if _nameable(names) and len(seen.values) >= NEARLY_ALL * sample.records and (found := rank(names, seen))
    ]
    return min(ranked, key=itemgetter(0))[1] if ranked else None


def _nameable(names: _Names) -> bool:
    try:
        return split_path(join_path(names)) == list(names)
    except ValueError:
        return False


def _words(name: str) -> list[str]:
    """The words of a name in snake_case, kebab-case or camelCase, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+", name)]


def _entity_rank(names: _Names, seen: _Field) -> tuple[float, float] | None:
    """An entity is a text or an integer that repeats and is called one, like `machine`, `hostName` or `user.id`."""
    words = [word for name in names[-2:] for word in _words(name)]
    while len(words) > 1 and words[-1] in ENTITY_SUFFIXES:
        words.pop()
    if not words or words[-1] not in ENTITY_WORDS or not seen.types <= {str, int}:
        return None
    different = seen.texts
    if "" in different or 2 * len(different) > len(seen.values):
        return None
    return float(int in seen.types), float(ENTITY_WORDS.index(words[-1]))


def _time_rank(names: _Names, seen: _Field) -> tuple[float, float] | None:
    """A time is called one, like `ts` or `createdAt`; an ISO 8601 text is one, too, if it mostly goes forwards."""
    ms = _times(seen)
    if ms is None:
        return None
    called = [TIME_WORDS.index(word) for word in _words(names[-1]) if word in TIME_WORDS]
    backwards = float((np.diff(ms) < 0).sum()) / len(ms)
    if not called and (seen.types != {str} or backwards > 0.2 or ms.min() == ms.max()):
        return None
    return float(min(called, default=len(TIME_WORDS))), backwards


def _times(seen: _Field) -> NDArray[np.float64] | None:
    """The values in epoch milliseconds, if nearly all of them are times between the years 2000 and 2100."""
    if not seen.values or not (seen.types == {str} or seen.types <= {int, float}):
        return None
    if str in seen.types and any(value.isdigit() for value in seen.values):
        return None  # an identifier like 20240101 can be read as a date
    ms = milliseconds(seen.values)
    plausible = (ms >= _PLAUSIBLE_MS[0]) & (ms < _PLAUSIBLE_MS[1])
    return ms if plausible.mean() >= NEARLY_ALL else None


def _inferred(sample: _Sample, entity: str | None, timestamp: str | None) -> Inferred:
    objects = {names[:end] for names in sample.fields for end in range(1, len(names))}
    of_entity = {join_path(names): seen for names, seen in sample.fields.items()}.get(entity or "", _Field())
    entities = dict(zip(of_entity.rows, of_entity.values, strict=True))
    features, notes = [], dict[str, str]()
    for names, seen in sample.fields.items():
        path = join_path(names)
        if path in (entity, timestamp):
            notes[path] = f"{len(seen.texts)} different values"
        elif {join_path(names[:end]) for end in range(1, len(names))} & {entity, timestamp}:
            notes[path] = "within the field of the entity or the time"
        elif names not in objects:
            kind, notes[path] = _finding(names, seen, sample.records, entities)
            if kind:
                features.append(FeatureSettings(name=path, kind=kind))
        elif seen.values:
            notes[path] = f"an object in some records, none in {len(seen.values)}"
    return Inferred(entity, timestamp, tuple(features), notes)


def _finding(
    names: _Names, seen: _Field, records: int, entities: Mapping[int, object]
) -> tuple[FeatureKind | None, str]:
    """What kind of feature a field is with what was seen, or None with why it is none."""
    types, number = seen.types, len(seen.values)
    if not _nameable(names):
        return None, "an empty name, or one with quote, backslash or control character, cannot be matched"
    if number < max(1, MIN_PRESENT * records):
        return None, f"has a value in {number} of {records} records"
    if types & {list, dict}:
        return None, "an array" if list in types else f"an object nested {MAX_DEPTH} deep"
    if _times(seen) is not None and (str in types or set(_words(names[-1])) & set(TIME_WORDS)):
        return None, "a time"
    if types == {bool}:
        return "flag", f"true in {sum(seen.values) / number:.0%}"
    if types <= {int, float, bool}:
        return _number(names, seen, entities)
    if float in types:
        return None, "texts and numbers mixed"
    return _category(seen)


def _number(names: _Names, seen: _Field, entities: Mapping[int, object]) -> tuple[FeatureKind | None, str]:
    numbers = number_column(seen.values)
    span = f"{numbers.min():g} to {numbers.max():g}"
    if _words(names[-1])[-1:] == ["id"] and 2 * len(np.unique(numbers)) > len(numbers):
        return None, f"an identifier, {span}"
    _, group = np.unique([str(entities.get(row)) for row in seen.rows], return_inverse=True)
    return ("counter", f"only grows, {span}") if _only_grows(numbers, group) else ("numeric", span)


def _only_grows(numbers: NDArray[np.float64], group: NDArray[np.intp]) -> bool:
    """Whether numbers of each group rise in most steps and never fall, but for rare resets to less than half."""
    order = np.argsort(group, kind="stable")
    within = np.diff(group[order]) == 0
    before, after = numbers[order][:-1][within], numbers[order][1:][within]
    resets = after < before
    return bool(
        len(before) >= MIN_COUNTER_STEPS
        and numbers.min() >= 0
        and (after > before).mean() > 0.5
        and resets.mean() <= 0.01
        and (after[resets] < before[resets] / 2).all()
    )


def _category(seen: _Field) -> tuple[FeatureKind | None, str]:
    texts, number = seen.texts, len(seen.values)
    if len(texts) == 1:
        return None, f"always {next(iter(texts))[:40]!r}"
    if len(texts) > min(MAX_CATEGORIES, MAX_CATEGORY_SHARE * number):
        return None, f"{len(texts)} different texts in {number} records"
    most = ", ".join(text[:20] for text, _ in texts.most_common(5))
    return "categorical", f"{len(texts)} categories: {most}" + ", …" * (len(texts) > 5)
