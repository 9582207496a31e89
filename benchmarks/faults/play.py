"""Plays a kind of fault: again and again on one scene, with the verdict at its end."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.kinds import KINDS, Kind
from benchmarks.faults.ledger import Verdict
from benchmarks.faults.scene import Scene, raised
from benchmarks.faults.stage import Stage


@dataclass
class Played:
    """What became of the records, the seconds to recover from each fault, and what ought to have happened and did not.

    `compared` says whether alerts were held against a run that nothing disturbed.
    """

    name: str
    compared: bool
    verdict: Verdict = field(default_factory=Verdict)
    recoveries: list[float] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.verdict.lost or self.verdict.doubled or self.verdict.different or self.remarks)

    def figures(self) -> dict[str, Any]:
        """For the result: counts, and seconds to recover."""
        verdict, seconds = self.verdict, self.recoveries
        return {
            "runs": len(seconds),
            "records": verdict.records,
            "alerts": verdict.alerts,
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "different": verdict.different if self.compared else None,
            "recover_s": {"median": _median(seconds), "max": round(max(seconds), 2) if seconds else None},
            "remarks": self.remarks,
        }


def play(stage: Stage, name: str, kinds: Sequence[Kind], seed: int) -> Played:
    """Has the kinds strike in turn, and judges. A scene that comes to a standstill is ended, which is a remark."""
    played = Played(name, compared=all(kind.compared for kind in kinds))
    try:
        with raised(stage, name, seed) as scene:
            try:
                for kind in kinds:
                    played.recoveries.append(_struck(scene, kind))
            except TimeoutError as error:
                scene.remarks.append(str(error))
            played.verdict, played.remarks = scene.settle(compare=played.compared), scene.remarks
    except TimeoutError as error:
        played.remarks = [*played.remarks, str(error)]
    return played


def _struck(scene: Scene, kind: Kind) -> float:
    scene.calm()
    return scene.recovery(kind.strike(scene))


def rejoin(stage: Stage, runs: int, seed: int) -> dict[str, float | None]:
    """What the group itself needs after a kill -9, in seconds, medians: `restarted` of a bare member that is started
    again at once under the same name, `replaced` where others take over after its session."""

    def member(scene: Scene, name: str) -> list[str]:
        settings = scene.folder / "member.json"
        settings.write_text(scene.settings.kafka.model_dump_json())
        return [sys.executable, "-m", "benchmarks.faults.member", str(settings), scene.topic, name]

    with raised(stage, "rejoin", seed, command=member) as scene:
        restarted = [_struck(scene, KINDS["kill_anywhere"]) for _ in range(runs)]
        replaced = [_struck(scene, KINDS["lose_replica"]) for _ in range(runs)]
        scene.producer.finish()
    return {"restarted": _median(restarted), "replaced": _median(replaced)}


def summarise(
    plays: Sequence[Played], group: Mapping[str, float | None], *, seed: int, replicas: int
) -> dict[str, Any]:
    """Everything in figures. `recover_ratio` is the median time to recover after a kill -9 over what the group needs to
    replace a member by itself; `recover_ratio_restarted` over what a bare member needs that is started again."""
    after_kill = [seconds for played in plays if KINDS[played.name].killed for seconds in played.recoveries]
    median = _median(after_kill)
    return {
        "faults": sum(len(played.recoveries) for played in plays),
        "records": sum(played.verdict.records for played in plays),
        "lost": sum(played.verdict.lost for played in plays),
        "doubled": sum(played.verdict.doubled for played in plays),
        "different": sum(played.verdict.different for played in plays),
        "remarks": sum(len(played.remarks) for played in plays),
        "recover_s": median,
        "rejoin_s": dict(group),
        "recover_ratio": _ratio(median, group.get("replaced")),
        "recover_ratio_restarted": _ratio(median, group.get("restarted")),
        "replicas": replicas,
        "seed": seed,
        "kinds": {played.name: played.figures() for played in plays},
    }


def table(plays: Sequence[Played]) -> str:
    """A line for each kind."""
    lines = [
        f"{'kind':30}{'runs':>5}{'records':>9}{'alerts':>8}{'lost':>6}{'doubled':>8}{'different':>10}{'recover':>15}"
    ]
    for played in plays:
        it = played.figures()
        seconds = "-" if not played.recoveries else f"{it['recover_s']['median']:.1f} / {it['recover_s']['max']:.1f} s"
        different = "-" if it["different"] is None else it["different"]
        lines.append(
            f"{played.name:30}{it['runs']:5}{it['records']:9}{it['alerts']:8}{it['lost']:6}{it['doubled']:8}"
            f"{different:>10}{seconds:>15}"
        )
        lines += [f"    {remark}" for remark in (*played.remarks, *played.verdict.evidence[:MOST_EVIDENCE])]
    return "\n".join(lines)


MOST_EVIDENCE = 10


def _median(seconds: Sequence[float]) -> float | None:
    return round(statistics.median(seconds), 2) if seconds else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 2) if one and other else None
