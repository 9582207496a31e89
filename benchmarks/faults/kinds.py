"""The kinds of faults, what each needs of the broker, and what can be said of the alerts."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from benchmarks.faults.scene import Mark, Scene
from benchmarks.faults.stage import REQUEST_S, SESSION_S
from benchmarks.faults.strikes import (
    add_partition,
    add_replica,
    crash,
    delete_dead_letters,
    delete_unread,
    exceed_poll_interval,
    fill_disk,
    freeze_broker,
    freeze_broker_at_commit,
    freeze_daemon,
    kill,
    kill_broker,
    kill_while_restoring,
    poison_storm,
    promote_damaged,
    remove_replica,
    restart_broker,
    swap_champion,
    terminate,
    twin,
)

Need = Literal["broker", "apache"]
"""broker: one that we may end and freeze. apache: what the embedded broker does not do, to end the transaction of a
producer that was killed, refuse stale members, evict silent ones, move partitions, delete records."""


class Kind(NamedTuple):
    """`compared` says whether alerts are held against a run that nothing disturbed."""

    strike: Callable[[Scene], Mark]
    needs: frozenset[Need] = frozenset()
    compared: bool = True
    killed: bool = False
    """Whether it is a kill -9 of a daemon that is started again."""


_APACHE: frozenset[Need] = frozenset({"apache"})
_BROKER: frozenset[Need] = frozenset({"apache", "broker"})

KINDS: dict[str, Kind] = {
    "kill_after_poll": Kind(partial(crash, "polled"), killed=True),
    "kill_after_produce": Kind(partial(crash, "produced"), _APACHE, killed=True),
    "kill_after_offsets": Kind(partial(crash, "offsets_sent"), _APACHE, killed=True),
    "kill_before_commit": Kind(partial(crash, "committing"), _APACHE, killed=True),
    "kill_during_commit": Kind(partial(crash, "committing", within=0.02), _APACHE, killed=True),
    "kill_after_commit": Kind(partial(crash, "committed"), killed=True),
    "kill_anywhere": Kind(kill, _APACHE, killed=True),
    "kill_while_restoring": Kind(kill_while_restoring, _APACHE, killed=True),
    "terminate_in_batch": Kind(terminate),
    "freeze_daemon": Kind(partial(freeze_daemon, SESSION_S / 2)),
    "freeze_daemon_beyond_session": Kind(partial(freeze_daemon, SESSION_S + 3), _APACHE),
    "exceed_poll_interval": Kind(exceed_poll_interval, _APACHE),
    "restart_broker": Kind(restart_broker, _BROKER),
    "kill_broker": Kind(kill_broker, _BROKER),
    "freeze_broker": Kind(partial(freeze_broker, (0.2, REQUEST_S - 2)), _BROKER),
    "freeze_broker_beyond_request": Kind(partial(freeze_broker, (REQUEST_S + 1, REQUEST_S + 5)), _BROKER),
    "freeze_broker_at_commit": Kind(freeze_broker_at_commit, _BROKER),
    "add_replica": Kind(add_replica, _APACHE),
    "remove_replica": Kind(partial(remove_replica, signal.SIGTERM), _APACHE),
    "lose_replica": Kind(partial(remove_replica, signal.SIGKILL), _APACHE),
    "twin": Kind(twin, _APACHE),
    "poison_storm": Kind(poison_storm),
    "add_partition": Kind(add_partition, _APACHE, compared=False),
    "delete_dead_letters": Kind(delete_dead_letters, _APACHE),
    "fill_disk": Kind(fill_disk),
    "promote_damaged": Kind(promote_damaged),
    "swap_champion": Kind(swap_champion, compared=False),
    "delete_unread_records": Kind(delete_unread, _APACHE, compared=False),
}
"""Not compared: where another version, other shares of the budget, or a gap in the topic make other alerts right."""
