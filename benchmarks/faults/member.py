"""A bare member of a group: reads, commits each batch, and does nothing else. What the group needs by itself.

python -m benchmarks.faults.member SETTINGS TOPIC INSTANCE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError

from consumers.settings import KafkaSettings


def main(settings: KafkaSettings, topic: str, instance: str) -> None:
    """Runs until it is killed."""
    session_ms = int(1000 * settings.session_timeout_s)
    consumer: Any = KafkaConsumer(
        topic,
        bootstrap_servers=settings.bootstrap,
        group_id=settings.group,
        group_instance_id=instance,
        partition_assignment_strategy=[CooperativeStickyAssignor()],
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=session_ms // 3,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        metrics_enabled=False,
    )
    while True:
        if consumer.poll(timeout_ms=100):
            try:
                consumer.commit()
            except KafkaError:  # it is no longer the owner
                continue


if __name__ == "__main__":
    main(KafkaSettings.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3])
