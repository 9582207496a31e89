"""How a message gets to a service: by apprise, or as JSON to a webhook. Addresses are secrets, and are never shown."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote

from detector.config_notify import ChannelSettings, NotifySettings
from detector.errors import NotSent, SettingsError
from detector.notifying.messages import Notification
from detector.notifying.webhook import Webhook

if TYPE_CHECKING:
    from apprise import Apprise

INCIDENT = "$incident"
"""In an address: the id of the incident that a message is about."""
LOCAL = ("blink1", "dbus", "gio", "glib", "gnome", "kde", "macosx", "qt", "syslog", "windows")
"""What apprise shows on this machine alone. Where the daemon runs nobody looks, and it would count as delivered."""
_SHORTEST_SECRET = 4
"""Shorter words of an address are left in what a service says: `no` is in most of it, and no key is that short."""


class Sender(Protocol):
    """One channel's way out."""

    service: str
    """What the service calls itself."""
    per_incident: bool
    """Whether a message can be about one incident only."""

    def send(self, notification: Notification) -> None:
        """Returns when the service has taken it. Raises `NotSent` with the service's reason, but of the address."""


def routes(settings: NotifySettings) -> dict[str, list[Sender]]:
    """By channel its own way out, and that of its fallback where it has one. Raises `SettingsError` as `sender`."""
    return {
        name: [sender(it, settings.channels[it]) for it in (name, channel.fallback) if it is not None]
        for name, channel in settings.channels.items()
    }


def sender(name: str, channel: ChannelSettings) -> Sender:
    """The channel's way out, looked at but not used.

    Raises `SettingsError` naming the channel where its address cannot be read or means nothing, or apprise is wanted
    and not installed.
    """
    url = address(name, channel)
    service = None
    if not url.startswith(("http://", "https://")):
        service = _Apprise(name, url, channel)
    elif _installed():
        service = _Apprise.known(name, url, channel)
    if service is None:
        return Webhook(name, url, channel)
    if channel.headers or channel.signing_secret:
        raise SettingsError(
            f"notify.channels.{name}: headers and signing_secret are a webhook's, and {service.service} is none."
        )
    return service


def address(name: str, channel: ChannelSettings) -> str:
    """The channel's address; a secret."""
    if channel.url is not None:
        text, origin = channel.url.get_secret_value(), "url"
    else:
        assert channel.url_file is not None  # as the settings have one of the two
        origin = f"url_file '{channel.url_file}'"
        try:
            text = channel.url_file.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"notify.channels.{name}.{origin} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError:
            raise SettingsError(f"notify.channels.{name}.{origin} is not UTF-8.") from None
    if len(text.split()) != 1:
        raise SettingsError(f"notify.channels.{name}.{origin} holds no address. Expected one word.")
    return text.strip()


def _installed() -> bool:
    try:
        import apprise  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        if error.name != "apprise":
            raise
        return False
    return True


class _Apprise:
    """Any service that apprise knows, in one request at a time, each with a deadline for the whole of it."""

    def __init__(self, name: str, url: str, channel: ChannelSettings) -> None:
        if not _installed():
            raise SettingsError(f"notify.channels.{name} wants apprise: install offnominal[notify].")
        self.per_incident = INCIDENT in url
        self._name = name
        self._url = url
        self._timeout = channel.timeout
        self.service = str(self._service("0" * 32)[0].service_name)

    @classmethod
    def known(cls, name: str, url: str, channel: ChannelSettings) -> _Apprise | None:
        """Where an http address is a service's own, as https://hooks.slack.com/… is; None where it is any other."""
        try:
            return cls(name, url, channel)
        except SettingsError:
            return None

    def send(self, notification: Notification) -> None:
        found = self._service(notification.incident).notify(
            title=notification.title, body=notification.text, notify_type=notification.tone, body_format="text"
        )
        if not found:
            said = [entry.message for entry in found.logs() if entry.level in ("WARNING", "ERROR")]
            raise NotSent(_masked("; ".join(said), self._url) or "the service did not take it")

    def _service(self, incident: str) -> Apprise:
        """Raises `SettingsError`; a mistake is told without the address."""
        import apprise

        _hush()
        scheme = self._url.partition(":")[0].lower()
        if scheme in LOCAL:
            raise SettingsError(f"notify.channels.{self._name}: {scheme}:// shows it on this machine alone, to nobody.")
        url = self._url.replace(INCIDENT, quote(incident, safe=""))
        there = apprise.Apprise(asset=_asset(self._timeout))
        if not there.add(url):
            raise SettingsError(
                f"notify.channels.{self._name}: its address is none that apprise understands. "
                "Expected one like those in docs/notify.md."
            )
        return there


def _asset(timeout: float) -> Any:
    """No pictures fetched from elsewhere, no state on disk, no plugins of others, no redirects that take keys along."""
    from apprise import AppriseAsset

    return AppriseAsset(
        app_id="offnominal",
        app_desc="offnominal",
        image_url_mask="",
        image_url_logo="",
        http_redirects=False,
        async_mode=False,
        storage_mode="memory",
        service_timeout=timeout,
    )


def _hush() -> None:
    """apprise logs what is wrong with an address with the keys in it. What it says of a message comes back with it."""
    log = logging.getLogger("apprise")
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())


def _masked(text: str, url: str) -> str:
    """Without any word of the address."""
    words = {word for part in (url, unquote(url)) for word in re.split(r"[^\w.~-]+", part)}
    for word in sorted(words, key=len, reverse=True):
        if len(word) >= _SHORTEST_SECRET:
            text = text.replace(word, "***")
    return text
