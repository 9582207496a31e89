"""What a setting may hold: durations, topics, fields, budgets; read from what people write."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from consumers.fields import split_path
from detector.budget import per_day

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?\s*", value)
    if match is None:
        raise ValueError(f"Expected a number and a unit out of {', '.join(_UNITS)}, like 5m")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _duration(seconds: float) -> str:
    unit = next(unit for unit in reversed(_UNITS) if seconds % _UNITS[unit] == 0 or unit == "ms")
    return f"{seconds / _UNITS[unit]:.15g}{unit}"


def _field_path(path: str) -> str:
    split_path(path)
    return path


def _false_alarms(budget: str) -> str:
    per_day(budget)
    return budget.replace(" ", "")


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, allow_inf_nan=False),
    PlainSerializer(_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "duration"}),
]
"""Seconds; written like `90s`, `5m`, `7d`. The formats here are what the page of all settings calls the types."""

Topic = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=249), WithJsonSchema({"type": "string", "format": "topic"})
]

FieldPath = Annotated[str, AfterValidator(_field_path), WithJsonSchema({"type": "string", "format": "field"})]

FalseAlarms = Annotated[str, AfterValidator(_false_alarms), WithJsonSchema({"type": "string", "format": "budget"})]
