"""Who trains: one at a time for a detector, as far as a store can see to that.

No clock is compared with another's. The holder rewrites the lease with a counter; it is free once its content has not
changed for `LEASE_S` of the watcher's own monotonic clock. A store that cannot compare and swap leaves gaps: of two
that claim a free lease, each looks again before it believes it has it, and a holder looks before it promotes. One that
is halted between that look and the promotion, for longer than `LEASE_S`, is not caught.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from detector.errors import StoreError, TrainingError
from detector.trainings import Room

log = structlog.get_logger()

LEASE_S = 30.0
"""A lease that did not change for so long is nobody's (seconds)."""
RENEW_S = 5.0
"""How often its holder rewrites it (seconds)."""
SETTLE_S = 1.0
"""Time between two calls of `take` (seconds): others may have claimed it in the same moment."""

_NAME = "lease.json"


class Lease:
    """The right to train a detector's next version."""

    def __init__(self, store: Room, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._holder = uuid.uuid4().hex
        self._written: bytes | None = None
        self._count = 0
        self._seen: bytes | None = None
        self._seen_at = clock()

    def take(self) -> bool:
        """Whether it is held now. To be called every `SETTLE_S` until it is: the first calls claim it, or wait for the
        holder to go."""
        found, now = self._store.read_json(_NAME), self._clock()
        if found is not None and found == self._written:
            return True
        if found != self._seen:
            self._seen, self._seen_at = found, now
        if found is None or now - self._seen_at >= LEASE_S:
            self._write()
        return False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renews it meanwhile, in a thread, and gives it back."""
        over = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(over,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._give_back()

    def renew(self) -> None:
        """Rewrites it. Raises `TrainingError` where it is another's."""
        self.require()
        self._write()

    def require(self) -> None:
        """Raises `TrainingError` where another has taken it: what comes of this training is not wanted."""
        if self._holder_of(found := self._store.read_json(_NAME)) != self._holder:
            raise TrainingError(
                f"The lease was taken by another training: {_NAME} holds {(found or b'nothing')[:100]!r}."
            )

    def _renew_until(self, over: threading.Event) -> None:
        while not over.wait(RENEW_S):
            try:
                self.renew()
            except StoreError as error:
                log.warning("the lease to train cannot be renewed", error=str(error))
            except TrainingError as error:
                log.error("another training goes on beside this one, which will not promote", error=str(error))
                return

    def _give_back(self) -> None:
        try:
            self.require()
            self._store.remove(_NAME)
        except (StoreError, TrainingError) as error:
            log.warning("the lease to train cannot be given back", error=str(error))

    def _write(self) -> None:
        self._count += 1
        content = json.dumps({"holder": self._holder, "count": self._count}).encode()
        self._store.write_json(_NAME, content)
        self._written = content

    @staticmethod
    def _holder_of(content: bytes | None) -> str | None:
        try:
            return str(json.loads(content or b"{}")["holder"])
        except (ValueError, KeyError, TypeError):
            return None
