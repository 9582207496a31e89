"""Settings out of a file and the environment: read once, and told clearly what is wrong with them.

`load` is the only way in. `OFFNOMINAL__KAFKA__BOOTSTRAP` overrides `kafka.bootstrap`, and so on for every key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from detector.config import DetectorSettings
from detector.errors import SettingsError

ENVIRONMENT_PREFIX = "OFFNOMINAL__"


def load(path: Path, environment: Mapping[str, str] = os.environ) -> DetectorSettings:
    """Settings of the file at `path` with the environment on top.

    Raises `SettingsError` naming key, value (but of a secret) and what was wanted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"Settings file '{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"Settings file '{path}' is not UTF-8 at byte {error.start}.") from None
    data = _values(text, f"Settings file '{path}'")
    if not isinstance(data, dict):
        raise SettingsError(
            f"Settings file '{path}' holds {type(data).__name__}. Expected keys like name, kafka, stream, alerts."
        )
    return parse(_overridden(data, environment), origin=str(path))


def parse(data: Mapping[str, Any], origin: str = "settings") -> DetectorSettings:
    """Settings out of plain values; `origin` stands in the message of a `SettingsError`."""
    try:
        return DetectorSettings.model_validate(data)
    except ValidationError as error:
        lines = [_told(item) for item in error.errors(include_url=False)]
        raise SettingsError(
            "\n".join([f"{origin}: {len(lines)} setting{'s' * (len(lines) > 1)} to mend", *lines])
        ) from None


def _values(text: str, origin: str) -> Any:
    """What a text of YAML says. Raises `SettingsError` for one that is none, or has aliases: a few lines of these can
    stand for more values than fit into memory."""
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise SettingsError(f"{origin} has an alias, *name. Expected every value where it belongs.")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # its own text quotes what may be a secret
        raise SettingsError(f"{origin} is not YAML{_place(error)}.") from None


def _place(error: Exception) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _overridden(data: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        *path, last = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        node = data
        for key in path:
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
            if not isinstance(node, dict):
                raise SettingsError(
                    f"Environment variable {variable} reaches into '{key}', which holds a {type(node).__name__}."
                )
        node[last] = _value(variable, text)
    return data


def _value(variable: str, text: str) -> Any:
    """Lists and maps may be given as YAML in a variable; a secret that merely looks like one is left alone."""
    if text[:1] not in ("[", "{") or _is_secret(variable.lower()):
        return text
    return _values(text, f"Environment variable {variable}")


def _told(item: Any) -> str:
    loc = item["loc"]
    if loc[:1] in (("features",), ("models",)):
        loc = loc[:1] + loc[2:]  # without the tag of the union: a list or auto
    path = ".".join(map(str, loc)) or "settings"
    if item["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        return f"  {path}: no such setting. " + (
            f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        )
    if item["type"] == "missing":
        return f"  {path}: missing."
    if item["type"] == "union_tag_not_found":
        return f"  {path}.type: missing."
    message = item["msg"].removeprefix("Value error, ")
    value = item["input"]
    is_group = item["type"] == "model_type" and isinstance(value, str)  # of which a part may be a secret
    is_told = isinstance(value, str | int | float) and not is_group and not _is_secret(path)
    shown = f" has value {value!r}" if is_told else ""
    return f"  {path}{shown}: {message}"


def _is_secret(path: str) -> bool:
    """Of channels nothing is shown: their addresses hold keys, and may have come to stand in another place."""
    return path.startswith("notify.channels") or any(word in path for word in ("password", "secret", "token"))


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    """Keys that the group at `path` knows; list indices and union tags on the way are skipped."""
    groups: list[type[BaseModel]] = [DetectorSettings]
    for part in path:
        children = [
            model
            for group in groups
            if part in group.model_fields
            for model in groups_in(group.model_fields[str(part)].annotation)
        ]
        tagged = [
            group
            for group in groups
            if "type" in group.model_fields and part in get_args(group.model_fields["type"].annotation)
        ]
        groups = children or tagged or groups
    return [info.alias or key for group in groups for key, info in group.model_fields.items()]


def groups_in(annotation: Any) -> list[type[BaseModel]]:
    """The groups of settings that a field with this annotation can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in groups_in(argument)]
