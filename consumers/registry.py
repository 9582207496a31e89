"""The schema registry, through Confluent's client: schemas by id, deadlines, and its errors in our words."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from consumers.binary import Unreadable
from consumers.errors import AuthenticationFailed, BrokerUnavailable, NotAuthorised, Retry, Stop, TlsFailed
from consumers.settings import RegistrySettings
from consumers.text import printable

TIMEOUT_S = 10.0
"""Deadline of each step of an exchange with the registry (seconds)."""
MOST_REFERENCES = 200
"""Schemas that one schema may name, in all."""
_HIGHEST_ID = 2**31 - 1
_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
_LONGEST_WORDS = 200


class Registered(NamedTuple):
    """A schema as it was registered. `references` are the schemas that it names, by the name that it gives them, each
    after those that it names itself."""

    format: str
    text: str
    references: dict[str, str]


class Registry:
    """Schemas by id. It asks each time: what it says of an id never changes, so who uses a schema keeps it."""

    def __init__(self, settings: RegistrySettings) -> None:
        """Raises `TlsFailed` where the file of authorities cannot be used."""
        arguments: dict[str, object] = {"url": settings.url, "timeout": TIMEOUT_S, "max.retries": 0}
        if settings.username is not None:
            password = settings.password.get_secret_value() if settings.password else ""
            arguments["basic.auth.user.info"] = f"{settings.username}:{password}"
        if authorities := settings.ca_file or ssl.get_default_verify_paths().cafile:
            arguments["ssl.ca.location"] = str(authorities)
        self._url = re.sub(r"//[^/@]*@", "//", settings.url)  # as messages show it
        try:
            self._client = SchemaRegistryClient(arguments)
        except OSError as error:
            raise TlsFailed(f"stream.registry.ca_file '{settings.ca_file}' cannot be used: {error}") from error

    def schema(self, schema_id: int) -> Registered:
        """The schema of an id. Raises `Unreadable` where there is none, or one that names too many others; `Retry`
        where the registry does not say; `Stop` where it lets nobody in, or is none."""
        if schema_id > _HIGHEST_ID:
            raise Unreadable("is unknown: ids of schemas have 31 bits")
        with self._asking(f"schema {schema_id}"):
            schema = self._client.get_schema(schema_id)
            references: dict[str, str] = {}
            self._add_references(schema, references)
        return Registered(schema.schema_type or "AVRO", schema.schema_str or "", references)

    def _add_references(self, schema: Schema, found: dict[str, str]) -> None:
        for reference in schema.references or ():
            if reference.name is None or reference.subject is None or reference.version is None:
                raise ValueError(f"reference {reference} is not whole")
            if reference.name in found:
                continue
            if len(found) == MOST_REFERENCES:
                raise Unreadable(f"names more than {MOST_REFERENCES} others")
            found[reference.name] = ""  # a schema that names itself ends here
            named = self._client.get_version(reference.subject, reference.version, deleted=True).schema
            self._add_references(named, found)
            del found[reference.name]
            found[reference.name] = named.schema_str or ""

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        doing = f"schema registry {self._url}: {what}"
        try:
            yield
        except SchemaRegistryError as error:
            said = printable(str(error), _LONGEST_WORDS)
            if error.error_code in (_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA):
                raise Unreadable(f"is not in the registry: {said}") from error
            raise _reaction(error.http_status_code)(f"{doing}: {said}") from error
        except httpx.ConnectError as error:
            failed = TlsFailed if "CERTIFICATE_VERIFY_FAILED" in str(error) else BrokerUnavailable
            raise failed(f"{doing}: {error}") from error
        except (
            httpx.HTTPError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ) as error:  # no JSON, or another one
            raise Retry(f"{doing}: {type(error).__name__}: {printable(str(error), _LONGEST_WORDS)}") from error


def _reaction(status: int) -> type[Retry | Stop]:
    """To an HTTP status: whoever is not let in, or asks what is no registry, will not be helped by asking again."""
    if status == httpx.codes.UNAUTHORIZED:
        return AuthenticationFailed
    if status == httpx.codes.FORBIDDEN:
        return NotAuthorised
    if 400 <= status < 500 and status not in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS):
        return Stop
    return Retry
