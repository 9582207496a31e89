"""What has become of each version of a detector."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from detector.bundle import Manifest
from detector.errors import BundleError
from detector.store import Store

State = Literal["serves, pinned", "serves", "served before", "refused", "on trial", "idle", "unreadable"]


class Standing(NamedTuple):
    """What has become of a version, and what speaks against it."""

    version: str
    state: State
    manifest: Manifest | None
    """None where it cannot be read."""
    against: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        made = {"version": self.version} if self.manifest is None else json.loads(self.manifest.to_json())
        champion = self.state.startswith("serves")
        return {**made, "state": self.state, "champion": champion, "against": [*self.against]}


def standings(store: Store) -> Iterator[Standing]:
    """Every version as it stands, oldest first; one that cannot be read hides no other."""
    history, pinned = store.history(), store.pinned()
    for version in store.versions():
        try:
            manifest = store.manifest(version)
        except BundleError as error:
            yield Standing(version, "unreadable", None, [str(error)])
        else:
            against = _against(manifest)
            yield Standing(version, _state(manifest, history, pinned, refused=bool(against)), manifest, against)


def _against(manifest: Manifest) -> list[str]:
    """What training found against a version, and the last of the trials after it."""
    reasons = [] if manifest.verdict.sound else [f"training: {reason}" for reason in manifest.verdict.reasons]
    if manifest.trials and not (last := manifest.trials[-1]).passed:
        reasons += [f"{last.stage}: {reason}" for reason in last.reasons]
    return reasons


def _state(manifest: Manifest, history: Sequence[str], pinned: str | None, *, refused: bool) -> State:
    if history and manifest.version == history[-1]:
        return "serves, pinned" if pinned else "serves"
    if manifest.version in history:
        return "served before"
    if refused:
        return "refused"
    return "on trial" if manifest.trials and manifest.trials[-1].stage == "gate" else "idle"
