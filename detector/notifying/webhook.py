"""A message as JSON to an address of the user's own, signed where there is a secret."""

from __future__ import annotations

import base64
import hmac
import json
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from detector import __version__
from detector.config_notify import ChannelSettings
from detector.errors import NotSent, SettingsError
from detector.notifying.messages import Notification

SECRET_PREFIX = "whsec_"
"""Before a signing secret that is written in base64, as Standard Webhooks do."""


class Webhook:
    """POSTs `{id, title, text, tone, alerts, more}`, with the alerts as they were published.

    Headers are those of Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`): by the id a
    receiver knows what it has had. Redirects are failures: they would take the headers along.
    """

    service = "webhook"
    per_incident = False

    def __init__(self, name: str, url: str, channel: ChannelSettings) -> None:
        parts = _parts(name, url)
        if not parts.hostname or parts.username is not None:
            raise SettingsError(f"notify.channels.{name}: expected http(s)://host/…; a password belongs in headers.")
        self._url = url
        self._headers = {key: value.get_secret_value() for key, value in channel.headers.items()}
        if wrong := [key for key, value in self._headers.items() if not (key + value).isascii() or "\n" in key + value]:
            raise SettingsError(f"notify.channels.{name}.headers: '{wrong[0]}' is not one line of ASCII.")
        self._key = _key(name, channel)
        self._timeout = channel.timeout
        self._open = build_opener(_NoRedirects).open

    def send(self, notification: Notification) -> None:
        body = json.dumps(
            {**notification._asdict(), "alerts": [alert.model_dump(mode="json") for alert in notification.alerts]}
        ).encode()
        headers = {**self._standard(notification.id, body), **self._headers}
        try:
            self._open(Request(self._url, body, headers, method="POST"), timeout=self._timeout).close()
        except HTTPError as error:
            error.close()
            raise NotSent(f"it answered {error.code}") from None
        except OSError as error:
            raise NotSent(str(getattr(error, "reason", error)) or type(error).__name__) from None
        except HTTPException as error:  # whose text is the server's, or the address
            raise NotSent(f"it did not answer in HTTP: {type(error).__name__}") from None

    def _standard(self, identifier: str, body: bytes) -> dict[str, str]:
        moment = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"offnominal/{__version__}",
            "webhook-id": identifier,
            "webhook-timestamp": moment,
        }
        if self._key:
            signature = hmac.digest(self._key, f"{identifier}.{moment}.".encode() + body, "sha256")
            headers["webhook-signature"] = f"v1,{base64.b64encode(signature).decode()}"
        return headers


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _parts(name: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # whose text repeats the address
        raise SettingsError(
            f"notify.channels.{name}: its address is not understood. Expected http(s)://host/…."
        ) from None
    return parts


def _key(name: str, channel: ChannelSettings) -> bytes:
    secret = channel.signing_secret.get_secret_value() if channel.signing_secret else ""
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise SettingsError(f"notify.channels.{name}.signing_secret: expected base64 after {SECRET_PREFIX}.") from None
