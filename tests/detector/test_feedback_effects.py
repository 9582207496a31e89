from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.batch import Partition, RawBatch
from detector.alerts import Alert, Reason
from detector.bundle import Bundle
from detector.feedback import Feedback, Label
from detector.feedback_effects import FARTHER, MOST_RAISED, Opinions
from detector.pipeline import Pipeline
from detector.reasons import Told
from detector.recursion import Levelled
from tests.detector.machines import TOPIC, records, settings
from tests.detector.opinions import DAY_S, word, words
from tests.detector.test_alerts import alert
from tests.detector.test_pipeline import batch_of, cut

SAID = datetime(2026, 1, 2, tzinfo=UTC)
SAID_MS = round(SAID.timestamp() * 1000)
LEVEL = 5.0
CPU = [Reason(feature="cpu", observed=9.0, expected=1.0, share=0.9)]


def judged(label: Label = "false_alarm", **changes: Any) -> Feedback:
    """Of an alarm of m0 at 6 nats that cpu explains."""
    return word(alert(**{"segment": "m0", "score": 6.0, "reasons": CPU, **changes}), label, at=SAID)


class Doubted:
    """What becomes of one record beyond the level, of m0 at the time when it was said unless told otherwise."""

    def __init__(
        self,
        *those: Feedback,
        nats: float = 6.0,
        reasons: list[Reason] = CPU,
        segment: str = "m0",
        later: timedelta = timedelta(),
        alarm: bool = True,
    ) -> None:
        one, self.asked = np.ones(1), 0
        self._reasons = reasons
        said = Levelled(nats * one, LEVEL * one, LEVEL * one, 2 * one, one > 0, one > 0, np.zeros(1, np.uint8))
        said.alarm[:], said.elevated[:] = alarm, alarm
        time = np.array([SAID_MS]) + later // timedelta(milliseconds=1)
        (found,) = Opinions(those, DAY_S).doubt(np.array([segment], object), time, said, self._explain)
        self.doubted = bool(found)
        self.raised = float(said.level[0] - LEVEL)
        self.raised_static = float(said.static_level[0] - LEVEL)

    def _explain(self, rows: NDArray[np.int64]) -> list[Told]:
        self.asked += len(rows)
        return [Told(self._reasons, True)] * len(rows)


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_k_false_alarms_raise_the_level_of_their_segment_by_ln_1_plus_k(count: int) -> None:
    raised = Doubted(*[judged()] * count)
    assert raised.raised == pytest.approx(math.log(1 + count))
    assert raised.raised_static == pytest.approx(2 * math.log(1 + count))
    assert Doubted(*[judged()] * count, segment="m1").raised == 0


def test_however_many_say_so_what_is_critical_remains_an_alarm() -> None:
    many = [judged(score=1.0)] * 5_000
    assert Doubted(*many).raised == MOST_RAISED
    assert not Doubted(*many, nats=LEVEL + MOST_RAISED).doubted


def test_a_record_below_the_raised_level_is_doubted_without_asking_why() -> None:
    below = Doubted(judged(), nats=LEVEL + math.log(2) - 0.01, reasons=[])
    assert (below.doubted, below.asked) == (True, 0)


def test_what_is_alike_is_doubted_unless_it_is_much_farther_out() -> None:
    assert Doubted(judged("known"), nats=6.0 + FARTHER).doubted
    far = Doubted(judged("known"), nats=6.0 + FARTHER + 0.01)
    assert (far.doubted, far.asked) == (False, 0)


@pytest.mark.parametrize(
    ("reasons", "alike"),
    [
        ([Reason(feature="cpu", observed=20.0, expected=2.0, share=0.5)], True),
        ([Reason(feature="cpu", observed=0.0, expected=1.0, share=0.9)], False),
        ([Reason(feature="load", observed=9.0, expected=1.0, share=0.9)], False),
        ([*CPU, Reason(feature="load", observed=9.0, expected=1.0, share=0.1)], True),
        ([*CPU, Reason(feature="load", observed=9.0, expected=1.0, share=0.9)], False),
        ([Reason(feature="cpu", observed=None, expected=1.0, share=0.9)], False),
        ([], False),
    ],
)
def test_alike_is_what_deviates_in_the_same_features_in_the_same_direction(reasons: list[Reason], alike: bool) -> None:
    assert Doubted(judged("known"), reasons=reasons).doubted == alike


@pytest.mark.parametrize(("observed", "alike"), [("x", True), ("y", False), (None, False)])
def test_values_that_are_no_numbers_are_alike_where_they_are_the_same(observed: str | None, alike: bool) -> None:
    kind = Reason(feature="kind", observed="x", expected="a", share=1.0)
    known = judged("known", reasons=[kind])
    assert Doubted(known, reasons=[kind.model_copy(update={"observed": observed})]).doubted == alike


def test_something_known_does_not_raise_the_level() -> None:
    assert Doubted(judged("known")).raised == 0


@pytest.mark.parametrize("label", ["confirmed", "note", "retracted"])
def test_other_words_change_nothing(label: Label) -> None:
    other = Doubted(judged(label))
    assert (other.doubted, other.raised, other.asked) == (False, 0, 0)


@pytest.mark.parametrize(
    "changes", [{"score": None}, {"score": math.inf}, {"members": 7}], ids=["no level", "no number", "outbreak"]
)
def test_alerts_that_are_not_of_one_record_and_its_score_change_nothing(changes: dict[str, Any]) -> None:
    assert not Doubted(judged(**changes)).doubted


@pytest.mark.parametrize(
    ("later", "counts"),
    [
        (timedelta(milliseconds=-1), False),
        (timedelta(0), True),
        (timedelta(days=1, milliseconds=-1), True),
        (timedelta(days=1), False),
        (timedelta(days=-20_000), False),
        (timedelta(days=1_000_000), False),
    ],
)
def test_a_word_counts_by_the_time_of_the_record_from_when_it_was_said(later: timedelta, counts: bool) -> None:
    found = Doubted(judged(), later=later)
    assert (found.doubted, found.raised > 0) == (counts, counts)
    assert Doubted(judged("known"), later=later).doubted == counts


def test_segments_are_counted_each_for_itself() -> None:
    early = word(alert(segment="m1"), at=SAID - timedelta(days=3))
    those = [early, judged(), word(alert(segment="m2"), at=SAID), judged(), early]
    assert Doubted(*those).raised == pytest.approx(math.log(3))
    assert Doubted(*those, segment="m1").raised == 0
    assert Doubted(*those, segment="m2").raised == pytest.approx(math.log(2))


def test_nothing_is_explained_of_records_within_the_level_or_of_other_segments() -> None:
    assert Doubted(judged(), alarm=False).asked == 0
    assert Doubted(judged(), segment="m1").asked == 0
    assert Doubted(nats=6.0).asked == 0


N = 9_000
"""Records of a stretch, a third of them of each machine; 1 in 100 is promised to be an alarm."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="module")
def alarms(folder: Path, champion: Bundle) -> list[Alert]:
    """What m0 was told of in a first stretch, all of it noise."""
    outcome = Pipeline(settings(folder), champion).process(batch_of([*records(N, seed=1)]))
    return [it for it in outcome.alerts if it.kind == "opened" and it.entity == "m0"]


def heeding(folder: Path, bundle: Bundle, those: list[Feedback], *, counts_for: float = 30 * DAY_S) -> Pipeline:
    """Behind the first stretch."""
    pipeline = Pipeline(settings(folder), bundle)
    pipeline.process(batch_of([*records(N, seed=1)]))
    pipeline.heed(Opinions(those, counts_for))
    return pipeline


def stretch(odd: dict[int, dict[str, object]] | None = None) -> RawBatch:
    """What comes behind the first one."""
    return batch_of([*records(N, start=N, seed=1, odd=odd)])


def told(alerts: Sequence[Alert], *machines: str) -> list[str]:
    return [it.id for it in alerts if it.kind == "opened" and it.entity in machines]


def test_twenty_false_alarms_of_a_segment_at_least_halve_its_further_ones_and_leave_the_others_alone(
    folder: Path, champion: Bundle, alarms: list[Alert]
) -> None:
    before = heeding(folder, champion, []).process(stretch())
    after = heeding(folder, champion, words(alarms[:20], at=alarms[-1].time)).process(stretch())
    assert len(told(before.alerts, "m0")) >= 20
    assert len(told(after.alerts, "m0")) <= len(told(before.alerts, "m0")) / 2
    assert told(after.alerts, "m1", "m2") == told(before.alerts, "m1", "m2")
    assert (before.hushed, after.hushed >= 10) == (0, True)


def test_a_retraction_brings_them_back(folder: Path, champion: Bundle, alarms: list[Alert]) -> None:
    retracted = words(alarms[:20], "retracted")
    before, after = (heeding(folder, champion, those).process(stretch()) for those in ([], retracted))
    assert told(after.alerts, "m0") == told(before.alerts, "m0")


def test_when_their_time_is_over_all_is_told_again(folder: Path, champion: Bundle, alarms: list[Alert]) -> None:
    those = words(alarms[:20], at=alarms[0].time - timedelta(days=30))
    before, after = (heeding(folder, champion, it, counts_for=DAY_S).process(stretch()) for it in ([], those))
    assert told(after.alerts, "m0") == told(before.alerts, "m0")


def test_an_attack_farther_out_than_what_was_judged_opens_its_incident(
    folder: Path, champion: Bundle, alarms: list[Alert]
) -> None:
    attack: dict[int, dict[str, object]] = {number: {"cpu": 5.0, "load": 10.0} for number in range(N + 900, N + 912, 3)}
    outcome = heeding(folder, champion, words(alarms)).process(stretch(attack))
    assert [it.source.offset for it in outcome.alerts if it.kind == "opened" and it.entity == "m0"] == [900]


def test_the_level_that_is_told_is_the_raised_one(folder: Path, champion: Bundle, alarms: list[Alert]) -> None:
    before = heeding(folder, champion, []).process(stretch()).decided.level
    after = heeding(folder, champion, words(alarms[:1])).process(stretch()).decided.level
    np.testing.assert_allclose((after - before)[::3], math.log(2))
    np.testing.assert_array_equal(np.delete(after - before, slice(0, None, 3)), 0.0)


@pytest.mark.parametrize("size", [1_000, 97])
def test_what_is_hushed_does_not_depend_on_where_batches_end(
    folder: Path, champion: Bundle, alarms: list[Alert], size: int
) -> None:
    known, batch = words(alarms[:3], "known"), stretch()
    whole = heeding(folder, champion, known).process(batch)
    pipeline = heeding(folder, champion, known)
    parts = [pipeline.process(cut(batch, start, start + size)) for start in range(0, N, size)]
    assert [it.id for part in parts for it in part.alerts] == [it.id for it in whole.alerts]
    assert sum(part.hushed for part in parts) == whole.hushed > 0


def test_a_pipeline_that_is_restored_hushes_as_the_one_before(
    folder: Path, champion: Bundle, alarms: list[Alert]
) -> None:
    partition, known, batch = Partition(TOPIC, 0), words(alarms[:3], "known"), stretch()
    first = heeding(folder, champion, known)
    first.process(cut(batch, 0, 1_000))
    second = first.beside(champion)
    second.restore(partition, first.packed(partition)[0])
    rest = cut(batch, 1_000, N)
    one, other = first.process(rest), second.process(rest)
    assert [it.id for it in one.alerts] == [it.id for it in other.alerts]
    assert one.hushed == other.hushed > 0


def test_what_goes_on_in_another_way_than_what_was_hushed_is_told(folder: Path, champion: Bundle) -> None:
    """The first record of the excursion is known, the second one has half the surprise of it, but another reason."""
    way: dict[int, dict[str, object]] = {N + 900: {"load": 2.2}, N + 903: {"load": 0.1}}
    (opened,) = (
        it
        for it in heeding(folder, champion, []).process(stretch(way)).alerts
        if it.kind == "opened" and it.source.offset == 900
    )
    pipeline, batch = heeding(folder, champion, [word(opened, "known")]), stretch(way)
    outcomes = [pipeline.process(cut(batch, *rows)) for rows in ((0, 901), (901, 904), (904, N))]
    alerts = [it for outcome in outcomes for it in outcome.alerts]
    offsets = [it.source.offset for it in alerts if it.kind == "opened" and it.entity == "m0"]
    assert 900 not in offsets
    assert 903 in offsets
