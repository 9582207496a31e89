"""The one place where settings become a broker."""

from __future__ import annotations

from consumers.errors import Stop
from consumers.settings import KafkaSettings
from consumers.stream import Broker


def broker(settings: KafkaSettings, *, group: str, client_id: str, max_bytes: int = 64_000_000) -> Broker:
    """The broker by the client that `kafka.client` names, which alone is imported.

    Raises `Stop` where it is not installed.
    """
    if settings.client == "kafka-python":
        from consumers.kafka_python import KafkaPythonBroker

        return KafkaPythonBroker(settings, group=group, client_id=client_id, max_bytes=max_bytes)
    try:
        from consumers.confluent import ConfluentBroker
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise Stop("kafka.client is 'confluent-kafka', which is not installed: install offnominal[fast]") from error
    return ConfluentBroker(settings, group=group, client_id=client_id, max_bytes=max_bytes)
