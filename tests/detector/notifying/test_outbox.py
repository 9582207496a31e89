from __future__ import annotations

from typing import Any

import pytest

from consumers.batch import Partition, Position
from detector.alerts import Alert
from detector.config_notify import ChannelSettings
from detector.notifying import outbox as module
from detector.notifying.outbox import PAUSE_S, Outbox, Parcel
from tests.detector.test_alerts import alert

TOPIC = Partition("machine-alerts", 0)
OTHER = Partition("machine-alerts", 1)


def box(*, per_incident: bool = False, routes: int = 1, **changes: Any) -> Outbox:
    settings = {"url": "json://x", "group": {"within": "10s"}, "give_up_after": "1h", **changes}
    found = Outbox(ChannelSettings.model_validate(settings), per_incident=per_incident, routes=routes)
    found.assign({TOPIC: Position(0), OTHER: Position(0)})
    return found


def told(number: int, **changes: Any) -> Alert:
    return alert(id=f"{number:032x}", **changes)


def fill(there: Outbox, *alerts: Alert, now: float = 0.0, first: int = 0) -> None:
    for offset, it in enumerate(alerts, first):
        there.take_in(TOPIC, offset, it, now)


def offsets(parcel: Parcel | None) -> list[int]:
    return [] if parcel is None else [held.offset for held in parcel.held]


def test_a_message_waits_for_others_to_go_with_it() -> None:
    there = box()
    fill(there, told(0))
    assert there.due(9.9, quiet=False) is None
    fill(there, told(1), now=9.0, first=1)
    parcel = there.due(10.0, quiet=False)
    assert offsets(parcel) == [0, 1]
    assert parcel is not None
    there.sent(parcel)
    assert there.due(100.0, quiet=False) is None
    assert there.positions()[TOPIC] == Position(2)


def test_a_position_is_that_of_what_was_sent() -> None:
    there = box()
    fill(there, told(0), told(1))
    assert there.positions()[TOPIC] == Position(0)
    there.due(10.0, quiet=False)
    assert there.positions()[TOPIC] == Position(0)
    assert len(there) == 2


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"kinds": ["silence"]}, [2]),
        ({"severity": "major"}, [1, 2]),
        ({"entities": ["web-*", "db-?"]}, [0, 1, 3]),
        ({"entities": ["web-*"], "severity": "critical"}, []),
    ],
)
def test_a_channel_gets_what_it_asks_for_and_the_rest_is_settled(filters: dict[str, Any], wanted: list[int]) -> None:
    there = box(**filters)
    fill(
        there,
        told(0, entity="web-1", severity="minor"),
        told(1, entity="db-1", severity="major"),
        told(2, entity="mail", kind="silence"),
        told(3, entity="", members=3, entities=["x", "y", "web-7"], severity="minor"),
    )
    parcel = there.due(10.0, quiet=False)
    assert offsets(parcel) == wanted
    if parcel is not None:
        there.sent(parcel)
    assert there.positions()[TOPIC] == Position(4)


def test_an_outbreak_that_does_not_name_all_its_entities_goes_to_whom_it_may_concern() -> None:
    there = box(entities=["web-*"])
    fill(there, told(0, entity="", members=30, entities=["x", "y"]), told(1, entity="", members=2, entities=["x", "y"]))
    assert offsets(there.due(10.0, quiet=False)) == [0]


def test_in_quiet_hours_only_the_grave_passes_and_the_rest_is_one_message_at_their_end() -> None:
    there = box()
    fill(there, told(0, severity="minor"), told(1), told(2, severity="major"))
    parcel = there.due(10.0, quiet=True)
    assert parcel is not None
    assert offsets(parcel) == [1]
    there.sent(parcel)
    assert there.due(9_999.0, quiet=True) is None
    assert there.positions()[TOPIC] == Position(0, "1-1")
    assert offsets(there.due(9_999.0, quiet=False)) == [0, 2]


def test_quiet_hours_may_hold_back_everything() -> None:
    there = box(quiet_except=None)
    fill(there, told(0))
    assert there.due(9_999.0, quiet=True) is None


def test_what_passed_in_quiet_hours_is_not_sent_again_after_a_restart() -> None:
    there = box()
    fill(there, told(0, severity="minor"), told(1))
    parcel = there.due(10.0, quiet=True)
    assert parcel is not None
    there.sent(parcel)
    again = box()
    again.assign(there.positions())
    fill(again, told(0, severity="minor"), told(1))
    assert offsets(again.due(10.0, quiet=False)) == [0]


def test_quiet_hours_end_where_too_much_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 3)
    there = box()
    fill(there, told(0, severity="minor"), told(1, severity="minor"))
    assert there.due(10.0, quiet=True) is None
    fill(there, told(2, severity="minor"), first=2)
    assert offsets(there.due(10.0, quiet=True)) == [0, 1, 2]


def test_what_fails_is_tried_again_as_it_was_after_pauses_that_grow() -> None:
    there = box()
    fill(there, told(0))
    parcel, now, pauses = there.due(10.0, quiet=False), 10.0, []
    assert parcel is not None
    message = parcel.notification
    for number in range(1, 9):
        pause = there.failed(parcel, now)
        assert pause is not None
        pauses.append(pause)
        fill(there, told(number), now=now, first=number)
        assert there.due(now + pause - 0.1, quiet=False) is None
        now += pause
        assert there.due(now, quiet=False) is parcel
    assert pauses == [1, 2, 4, 8, 16, 32, 60, PAUSE_S[1]]
    assert parcel.notification is message
    there.sent(parcel)
    assert offsets(there.due(now + 10, quiet=False)) == [*range(1, 9)]


def test_after_long_enough_the_fallback_is_tried_and_then_no_more() -> None:
    there = box(routes=2)
    fill(there, told(0))
    parcel = there.due(10.0, quiet=False)
    assert parcel is not None
    assert there.failed(parcel, 3_609.0) == PAUSE_S[0]
    assert (there.failed(parcel, 3_610.0), parcel.route) == (0.0, 1)
    assert there.due(3_610.0, quiet=False) is parcel
    assert there.failed(parcel, 3_611.0) == PAUSE_S[0]
    assert there.failed(parcel, 7_210.0) is None
    there.drop(parcel)
    assert there.positions()[TOPIC] == Position(1)


def test_each_incident_has_messages_of_its_own_where_a_channel_wants_that() -> None:
    there = box(per_incident=True)
    fill(there, told(0), told(1, incident="aa"), told(2, kind="resolved", reasons=[]))
    first = there.due(10.0, quiet=False)
    assert offsets(first) == [0, 2]
    assert first is not None
    assert (first.notification.incident, first.notification.tone) == (alert().incident, "success")
    assert offsets(there.due(10.0, quiet=False)) == [0, 2]  # as long as nobody says what became of it
    there.failed(first, 10.0)
    assert offsets(there.due(10.0, quiet=False)) == [1]


def test_an_incident_is_not_closed_before_its_opening_was_taken() -> None:
    there = box(per_incident=True)
    fill(there, told(0))
    opening = there.due(10.0, quiet=False)
    assert opening is not None
    there.failed(opening, 10.0)
    fill(there, told(1, kind="resolved", reasons=[]), now=10.0, first=1)
    assert there.due(10.5, quiet=False) is None
    assert there.due(30.0, quiet=False) is opening
    there.sent(opening)
    assert offsets(there.due(30.0, quiet=False)) == [1]


def test_an_alert_that_is_in_the_topic_twice_is_sent_once() -> None:
    there = box()
    fill(there, told(0), told(0), told(1))
    parcel = there.due(10.0, quiet=False)
    assert parcel is not None
    assert [it.id for it in parcel.notification.alerts] == [told(0).id, told(1).id]
    there.sent(parcel)
    fill(there, told(1), now=10.0, first=3)
    assert there.due(20.0, quiet=False) is None
    assert there.positions()[TOPIC] == Position(4)


def test_an_alert_that_comes_once_more_while_it_is_under_way_is_sent_once() -> None:
    there = box()
    fill(there, told(0))
    parcel = there.due(10.0, quiet=False)
    assert parcel is not None
    fill(there, told(0), told(1), now=10.0, first=1)
    there.sent(parcel)
    assert offsets(there.due(20.0, quiet=False)) == [2]
    assert there.positions()[TOPIC] == Position(2)


def test_what_was_sent_is_known_after_the_stream_was_lost_even_where_it_was_not_committed() -> None:
    there = box()
    fill(there, told(0), told(1))
    parcel = there.due(10.0, quiet=False)
    assert parcel is not None
    there.sent(parcel)
    there.reset()
    assert (len(there), there.positions()) == (0, {})
    there.assign({TOPIC: Position(0)})
    fill(there, told(0), told(1), told(2), now=10.0)
    assert offsets(there.due(20.0, quiet=False)) == [2]


def test_only_so_many_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 2)
    there = box()
    fill(there, told(0), told(1), told(2))
    parcel = there.due(10.0, quiet=False)
    assert parcel is not None
    there.sent(parcel)
    fill(there, told(0), told(2), now=10.0, first=3)
    assert offsets(there.due(20.0, quiet=False)) == [3]


def test_a_partition_that_goes_takes_its_alerts_along_and_those_of_others_are_sent() -> None:
    there = box()
    fill(there, told(0))
    there.take_in(OTHER, 0, told(1), 0.0)
    parcel = there.due(10.0, quiet=False)
    assert parcel is not None
    there.failed(parcel, 10.0)
    there.revoke([TOPIC])
    assert len(there) == 1
    assert offsets(there.due(10.0, quiet=False)) == [0]
    assert there.positions() == {OTHER: Position(0)}
