"""What the people on call do."""

from __future__ import annotations

import threading

from consumers.stream import Broker
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.feedback_giving import give
from detector.store import Store
from detector.trainings import Request, Trainings
from detector.web.desk import Desk
from detector.web.incident_views import opinion
from detector.web.views import Done, Opinion, SayIt

SOON = "from the next look at the store on"


class Actions:
    """Called from any of the web server's threads."""

    def __init__(self, settings: DetectorSettings, desk: Desk, broker: Broker) -> None:
        """`broker` is of the settings that `feedback_giving.voting` gives."""
        self._settings = settings
        self._desk = desk
        self._broker = broker
        self._store = Store(settings.store.url, settings.name)
        self._giving = threading.Lock()
        """Held while something is said: two at once would fence each other."""

    def say(self, incident: str, what: SayIt) -> Opinion:
        """Says something of an incident, in the feedback topic."""
        self._desk.require(incident)
        if what.label == "note" and not what.text:
            raise SettingsError("A note wants text.")
        with self._giving:
            return opinion(give(self._broker, self._settings, incident, what.label, what.text, what.author))

    def promote(self, version: str) -> Done:
        """Makes a version champion, if it loads and fits the settings."""
        self._store.load(version).require_fit(self._settings)
        self._store.promote(version)
        return self._done(f"{version} serves {SOON}.")

    def pin(self, version: str) -> Done:
        """Makes a version champion until a person says otherwise, if it loads and fits the settings."""
        self._store.load(version).require_fit(self._settings)
        self._store.pin(version)
        return self._done(f"{version} serves {SOON}, and is pinned: no training or rollback replaces it.")

    def unpin(self) -> Done:
        """Lets the champion be replaced by itself again."""
        version = self._store.unpin()
        return self._done("No version was pinned." if version is None else f"{version} serves on, no longer pinned.")

    def roll_back(self) -> Done:
        """Makes the previous champion serve again."""
        return self._done(f"{self._store.rollback()} serves {SOON}.")

    def retrain(self) -> Done:
        """Asks for a training."""
        asked = Trainings(self._store).ask(Request(reason="demand", note="asked for on the dashboard"))
        return self._done(f"Training {asked.id} is asked for; the replica with the first partition takes it.")

    def _done(self, detail: str) -> Done:
        self._desk.forget()
        return Done(detail=detail)
