"""`docs/asyncapi.yaml`: what the daemon publishes and reads beside the records, described in AsyncAPI 3.0.

python -m detector.asyncapi > docs/asyncapi.yaml

JSON is described by `docs/alert.schema.json` and `docs/feedback.schema.json`, which it refers to, and bytes in words.
"""

from __future__ import annotations

import sys
from typing import Any, get_args

import yaml

from consumers.dead_letters import HEADER_PREFIX
from consumers.decode import DeadLetterReason
from detector import __version__
from detector.alerts import AlertKind
from detector.snapshot import FORMAT, NAME, REST
from detector.state_topic import CHUNK_BYTES

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "string", "pattern": "^[0-9]+$"}
"""Of a header: Kafka's headers are bytes, these are digits in ASCII."""
JSON, BYTES = "application/json", "application/octet-stream"

DESCRIPTION = (
    "Anomaly detection on Kafka streams that keeps the false-alarm budget you state. Alerts and dead letters of a "
    "batch and the positions after it are one transaction (`kafka.delivery: exactly_once`): read with the isolation "
    "level `read_committed`. Header values are UTF-8. Topics that are missing are created with one partition."
)


def asyncapi() -> dict[str, Any]:
    """The document as plain values."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "offnominal", "version": __version__, "description": DESCRIPTION},
        "defaultContentType": JSON,
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "variables": {"bootstrap": {"default": "localhost:9092", "description": "`kafka.bootstrap`"}},
            }
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages()},
    }


def _channels() -> dict[str, Any]:
    return {
        "alerts": _channel(
            "{alerts}", "What was noticed, or is over.", {"alerts": "`alerts.topic`"}, ["alert"], compacted=False
        ),
        "deadLetters": _channel(
            "{deadLetters}",
            "Records that could not be scored, and receipts for those that were sent back.",
            {"deadLetters": "`dead_letters.topic`; `<alert topic>-dead-letters` where none is given"},
            ["deadLetter", "undecodable", "receipt"],
            compacted=False,
        ),
        "feedback": _channel(
            "{feedback}",
            "What people say of alerts. Who may write here can keep alerts from being told.",
            {"feedback": "`feedback.topic`; `offnominal-<name>-feedback` where none is given"},
            ["feedback"],
            compacted=True,
        ),
        "state": _channel(
            "{state}",
            "Snapshots of what each partition remembers, to go on from after a crash or a move. For the daemon alone.",
            {"state": "`state.topic`; `offnominal-<name>-state` where none is given"},
            ["snapshot"],
            compacted=True,
        ),
    }


def _channel(
    address: str, description: str, parameters: dict[str, str], messages: list[str], *, compacted: bool
) -> dict[str, Any]:
    policy = {"topicConfiguration": {"cleanup.policy": ["compact"]}} if compacted else {}
    return {
        "address": address,
        "description": description,
        "parameters": {name: {"description": text} for name, text in parameters.items()},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": {"partitions": 1, **policy, "bindingVersion": "0.5.0"}},
    }


def _operations() -> dict[str, Any]:
    return {
        "publishAlert": _operation("send", "alerts", "In the transaction of the batch that holds the source record."),
        "divert": _operation("send", "deadLetters", "In the transaction of the batch that holds the record."),
        "giveFeedback": _operation("send", "feedback", "By `offnominal feedback` and the dashboard; others may, too."),
        "followFeedback": _operation(
            "receive", "feedback", "By every replica, from the first record, without a group."
        ),
        "writeSnapshot": _operation("send", "state", "After `state.every` or `state.records`, and at a graceful stop."),
        "restore": _operation("receive", "state", "The chunks that a committed position names, by their offsets."),
    }


def _operation(action: str, channel: str, description: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "description": description}


def _messages() -> dict[str, Any]:
    return {
        "alert": {
            "summary": "Something was noticed, or is over.",
            "contentType": JSON,
            "headers": _headers(_cloud_event(), optional=("ce_subject",)),
            "payload": {"$ref": "alert.schema.json"},
            "correlationId": {"location": "$message.payload#/incident", "description": "Joins alerts of one incident."},
            "bindings": _key("The entity; null where the stream has none, or the alert is about many."),
        },
        "deadLetter": {
            "summary": "The record as it came, cut where it is too large (`offnominal.cut`).",
            "contentType": BYTES,
            "headers": _headers(_about() | _whole(), optional=("cut", "sha256", "bytes")),
            "bindings": _key("The record's own; empty where it had neither key nor value."),
        },
        "undecodable": {
            "summary": "Stands for the offsets from `offnominal.offset` up to but not including `offnominal.end`, "
            "which the client cannot decode. It has no value.",
            "contentType": BYTES,
            "headers": _headers(_about() | {"end": NUMBER}),
            "bindings": _key("The partition it came from, `topic-number`."),
        },
        "receipt": {
            "summary": "Which letters of this topic were sent back: their offsets by number of the partition.",
            "contentType": JSON,
            "headers": _headers({"receipt": {**NUMBER, "description": "How many letters."}}),
            "payload": {
                "type": "object",
                "propertyNames": {"pattern": "^[0-9]+$"},
                "additionalProperties": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            },
            "bindings": _key("`offnominal.receipt`."),
        },
        "feedback": {
            "summary": "What somebody said of an incident. A message without a value takes back what was said.",
            "contentType": JSON,
            "payload": {"$ref": "feedback.schema.json"},
            "correlationId": {"location": "$message.payload#/alert/incident", "description": "The incident."},
            "bindings": _key("The id of the incident, or that and `/note`: a later message replaces the one before."),
        },
        "snapshot": {
            "summary": f"A piece of a snapshot, {CHUNK_BYTES:,} bytes at most. The pieces joined are the text "
            f"'{NAME.decode()}', a byte that is the number of the format, {FORMAT}, and one Zstandard frame. That "
            f"holds a safetensors file, whose array '{REST}' is in JSON all that is no array. There are no headers.",
            "contentType": BYTES,
            "bindings": _key("`group/topic/partition/slot/piece`; two slots take turns, so that the last one stays."),
        },
    }


def _cloud_event() -> dict[str, Any]:
    """Attributes of CloudEvents 1.0 in Kafka's binary mode."""
    return {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "The alert's id: the same record always gives the same."},
        "ce_type": {"enum": [f"offnominal.alert.{kind}" for kind in get_args(AlertKind)]},
        "ce_source": {"type": "string", "pattern": "^/offnominal/", "description": "The detector."},
        "ce_subject": {"type": "string", "description": "The entity; left out where the alert has none."},
        "ce_time": {"type": "string", "format": "date-time", "description": "Event time of the source record."},
        "content-type": {"const": JSON},
    }


def _about() -> dict[str, Any]:
    return {
        "reason": {"enum": [str(reason) for reason in DeadLetterReason]},
        "error": TEXT,
        "topic": TEXT,
        "partition": NUMBER,
        "offset": NUMBER,
    }


def _whole() -> dict[str, Any]:
    """What a dead letter of one record says beside, of the record as it was."""
    return {
        "timestamp": {"type": "string", "pattern": "^-?[0-9]+$", "description": "The broker's, in epoch milliseconds."},
        "cut": {"type": "string", "description": "Parts that are not whole: key, value, headers."},
        "sha256": {"type": "string", "description": "Of the whole value, where it was cut."},
        "bytes": {**NUMBER, "description": "Size of the whole value, where it was cut."},
    }


def _headers(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Headers of a message; names that are not of CloudEvents carry the prefix of ours."""
    prefix = "" if "ce_id" in properties else HEADER_PREFIX
    return {
        "type": "object",
        "properties": {prefix + name: schema for name, schema in properties.items()},
        "required": [prefix + name for name in properties if name not in optional],
    }


def _key(description: str) -> dict[str, Any]:
    return {"kafka": {"key": {"type": "string", "description": description}, "bindingVersion": "0.5.0"}}


def written() -> str:
    """The document as YAML."""
    return yaml.dump(asyncapi(), None, _Plain, sort_keys=False, allow_unicode=True, width=120)


class _Plain(yaml.SafeDumper):
    """Without aliases: a schema that is used twice is written twice."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


if __name__ == "__main__":
    sys.stdout.write(written())
