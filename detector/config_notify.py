"""Settings of `offnominal notify`: which channels alerts are sent to, which of them, when, and in which words."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from consumers.settings import Settings
from detector.alerts import AlertKind, Severity
from detector.config_service import WebSettings
from detector.config_types import Duration
from detector.mute import Mute

FIELDS = (
    *("id", "incident", "kind", "happened", "detector", "entity", "segment", "time", "opened", "severity", "p_value"),
    *("level", "records", "model", "version", "why", "topic", "partition", "offset"),
)
"""What a template may say of an alert, as `$severity` or `${severity}`."""


def _template(text: str) -> str:
    template = Template(text)
    if not template.is_valid():
        raise ValueError("Expected names like $entity; a dollar sign alone is written $$")
    if unknown := sorted(set(template.get_identifiers()) - set(FIELDS)):
        raise ValueError(f"${unknown[0]} is not known. Known: {', '.join(f'${field}' for field in FIELDS)}")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("Expected one line: a title is a mail's subject")
    return text


TemplateText = Annotated[str, Field(min_length=1, max_length=4_000), AfterValidator(_template)]
ChannelName = Annotated[str, Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=50)]
"""In small letters and without a double underscore, so that `OFFNOMINAL__NOTIFY__CHANNELS__SLACK__URL` can name it."""


class TemplateSettings(Settings):
    """The words of a message. `$entity`, `$severity`, `$why` and the like stand for what the alert says."""

    title: Annotated[TemplateText, AfterValidator(_one_line)] = "[$severity] $detector: $entity $happened"
    """Title of a message about one alert; of several the title says how many."""
    line: TemplateText = "$time $severity: $entity $happened. $why"
    """What the text says of each alert."""


class GroupSettings(Settings):
    """Alerts that come close together are one message."""

    within: Duration = 10.0
    """A message waits so long, from its first alert on, for others to go with it."""
    lines: int = Field(default=20, ge=1, le=200)
    """Most alerts that a message spells out, the gravest ones; of the rest it says how many."""


class ChannelSettings(Settings):
    """One place that alerts are sent to."""

    url: SecretStr | None = None
    """Where to: an address as apprise writes it (`slack://…`, `mailtos://…`), or `https://…` for a webhook.
    `$incident` in it stands for the incident's id: each incident has messages of its own then."""
    url_file: Path | None = None
    """A file that holds the address, instead of `url`."""
    headers: dict[str, SecretStr] = {}
    """Of a webhook: headers that go with every request."""
    signing_secret: SecretStr | None = None
    """Of a webhook: what requests are signed with, in the manner of Standard Webhooks."""
    kinds: list[AlertKind] = []
    """Kinds of alerts to send; all where none is named."""
    severity: Severity = "minor"
    """The least severity to send."""
    entities: list[str] = []
    """Patterns like `web-*`: only alerts on such entities are sent; all where none is named."""
    template: TemplateSettings = TemplateSettings()
    """The words of a message."""
    group: GroupSettings = GroupSettings()
    """When alerts become one message."""
    quiet: list[Mute] = []
    """Hours at which nothing is sent: weekly ones, or events of a calendar file. What comes meanwhile is sent as one
    message at the end."""
    quiet_except: Severity | None = "critical"
    """Alerts of this severity or more are sent in quiet hours too; null holds back all."""
    timeout: Duration = 10.0
    """A service that has not answered for so long has failed."""
    give_up_after: Duration = 3_600.0
    """A message is tried again, after pauses that grow to a minute, for so long;"""
    fallback: ChannelName | None = None
    """then it is sent to this channel, for as long again. Without one, or where that fails as well, the log says that
    it was not delivered."""

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("a channel wants one of url and url_file")
        return self


class NotifySettings(Settings):
    """Where `offnominal notify` sends alerts to."""

    web: WebSettings = WebSettings(port=8687)
    """Metrics and a probe of `offnominal notify` over HTTP."""
    channels: dict[ChannelName, ChannelSettings] = {}
    """Channels by names of your own. Each follows the alert topic in a consumer group `<group>-notify-<name>`, and
    begins with the alerts that come after its first start."""

    @model_validator(mode="after")
    def _fallbacks_exist(self) -> Self:
        for name, channel in self.channels.items():
            if channel.fallback is not None and channel.fallback not in self.channels.keys() - {name}:
                raise ValueError(f"channel '{name}' has the fallback '{channel.fallback}': expected another channel")
        return self
