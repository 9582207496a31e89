"""What the Grafana board shows (`detector.board` writes it): panels, each with its queries in PromQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Panel(NamedTuple):
    """One picture: a query for each way to call its series. `unit` is Grafana's word; from `red` on it is coloured."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    red: float | None = None
    stacked: bool = False


def figure(title: str, query: str, unit: str = "none", red: float | None = None) -> Panel:
    """The value of now, a detector each."""
    return Panel(title, {"{{detector}}": query}, unit, 4, "stat", red)


BOARD: Mapping[str, tuple[Panel, ...]] = {
    "Is it well?": (
        figure("Replicas not ready", "sum by (detector) (1 - offnominal_ready{$chosen})", red=1),
        figure("Open incidents", "sum by (detector) (offnominal_open_incidents{$chosen})"),
        figure(
            "Opened in an hour",
            'sum by (detector) (increase(offnominal_alerts_total{$chosen, kind="opened"}[1h]))',
        ),
        figure(
            "Alarms per promised, a day", 'detector:offnominal_realised_per_promised:ratio{$chosen, window="1d"}', red=2
        ),
        figure("Behind by", "detector:offnominal_lag_seconds:ratio5m{$chosen}", "s", red=900),
        figure("Last batch ago", "time() - max by (detector) (offnominal_last_batch_timestamp_seconds{$chosen})", "s"),
        Panel(
            "Alerts that fire",
            {"": 'ALERTS{alertname=~"Offnominal.*", alertstate="firing"}'},
            width=12,
            kind="table",
        ),
        Panel(
            "Checks that pass",
            {"{{check}} {{instance}}": "offnominal_check_passed{$chosen}"},
            "bool_yes_no",
            12,
            "state-timeline",
        ),
    ),
    "What happened": (
        Panel(
            "Alerts by kind and severity",
            {
                "{{kind}} {{severity}}": "sum by (kind, severity) "
                "(increase(offnominal_alerts_total{$chosen}[$__rate_interval])) > 0"
            },
            width=16,
            stacked=True,
        ),
        Panel("Open incidents", {"{{detector}}": "sum by (detector) (offnominal_open_incidents{$chosen})"}),
    ),
    "The budget": (
        Panel(
            "Alarms in a day, promised and realised",
            {
                "{{detector}} realised": 'detector:offnominal_alarms:increase{$chosen, window="1d"}',
                "{{detector}} promised": 'detector:offnominal_promised_alarms:increase{$chosen, window="1d"}',
            },
        ),
        Panel(
            "Alarms per promised",
            {"{{detector}} {{window}}": "detector:offnominal_realised_per_promised:ratio{$chosen}"},
            red=2,
        ),
        Panel(
            "Records beyond the level",
            {
                "alarms": "sum(increase(offnominal_alarms_total{$chosen}[$__rate_interval]))",
                "elevated": "sum(increase(offnominal_elevated_records_total{$chosen}[$__rate_interval]))",
                "not told": "sum(increase(offnominal_suppressed_alarms_total{$chosen}[$__rate_interval]))",
            },
            stacked=True,
        ),
    ),
    "Does it keep pace?": (
        Panel(
            "Records a second",
            {"{{detector}}": "sum by (detector) (rate(offnominal_records_total{$chosen}[$__rate_interval]))"},
        ),
        Panel(
            "Records to read, by partition",
            {"{{topic}} {{partition}}": "sum by (topic, partition) (offnominal_lag_records{$chosen})"},
        ),
        Panel(
            "Standing still, by partition",
            {"{{topic}} {{partition}}": "max by (topic, partition) (offnominal_partition_stalled_seconds{$chosen})"},
            "s",
            red=300,
        ),
        Panel(
            "Time of a batch",
            {
                name: f"histogram_quantile({part}, "
                "sum by (le) (rate(offnominal_batch_seconds_bucket{$chosen}[$__rate_interval])))"
                for name, part in (("median", 0.5), ("99th percentile", 0.99))
            },
            "s",
        ),
        Panel(
            "Dead letters, by reason",
            {"{{reason}}": "sum by (reason) (increase(offnominal_dead_letters_total{$chosen}[$__rate_interval])) > 0"},
            stacked=True,
        ),
        Panel(
            "The broker",
            {
                "joined anew: {{error}}": "sum by (error) (increase(offnominal_rejoins_total{$chosen}[5m])) > 0",
                "moved: {{reason}}": "sum by (reason) (increase(offnominal_position_moves_total{$chosen}[5m])) > 0",
                "missed": "sum(increase(offnominal_records_missed_total{$chosen}[5m])) > 0",
            },
            stacked=True,
        ),
    ),
    "What serves": (
        Panel(
            "Version of each replica",
            {"{{version}} {{instance}}": "offnominal_version_info{$chosen}"},
            "none",
            kind="state-timeline",
        ),
        Panel("Age of the version", {"{{instance}}": "offnominal_model_age_seconds{$chosen}"}, "s"),
        Panel(
            "Trainings",
            {
                "{{result}}": "sum by (result) (increase(offnominal_trainings_total{$chosen}[$__rate_interval])) > 0",
                "phase on {{instance}}": "offnominal_training_phase{$chosen}",
            },
        ),
    ),
    "What it needs": (
        Panel(
            "Entities",
            {
                "{{detector}} in memory": "detector:offnominal_entities:sum{$chosen}",
                "{{detector}} forgotten in an hour": "delta(detector:offnominal_evicted_entities:sum{$chosen}[1h])",
                "{{detector}} left out of snapshots": "sum by (detector) "
                "(increase(offnominal_entities_left_out_total{$chosen}[1h]))",
            },
        ),
        Panel(
            "Memory of the process",
            {"{{instance}}": "process_resident_memory_bytes and on (job, instance) offnominal_ready{$chosen}"},
            "bytes",
        ),
        Panel(
            "Cores",
            {
                "{{instance}}": "rate(process_cpu_seconds_total[$__rate_interval]) "
                "and on (job, instance) offnominal_ready{$chosen}"
            },
        ),
        Panel(
            "Snapshots, and what was lost",
            {
                "written": "sum(increase(offnominal_snapshots_total{$chosen}[$__rate_interval]))",
                "replayed records": "sum(increase(offnominal_replayed_records_total{$chosen}[$__rate_interval])) > 0",
                "partitions begun anew": "sum(increase(offnominal_states_lost_total{$chosen}[5m])) > 0",
            },
        ),
        Panel(
            "Size of a snapshot",
            {
                "99th percentile": "histogram_quantile(0.99, "
                "sum by (le) (rate(offnominal_snapshot_bytes_bucket{$chosen}[1h])))"
            },
            "bytes",
        ),
        Panel(
            "Time of a snapshot",
            {
                "99th percentile": "histogram_quantile(0.99, "
                "sum by (le) (rate(offnominal_snapshot_seconds_bucket{$chosen}[1h])))"
            },
            "s",
        ),
    ),
}
"""The panels by row, in the order in which someone woken at night asks."""
