"""A broker for the whole run of each worker, and names that nobody else uses on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from consumers.embedded import embedded_broker


@pytest.fixture(scope="session")
def bootstrap() -> Iterator[str]:
    """Address of a broker: the one in OFFNOMINAL_TEST_BOOTSTRAP, or an embedded one."""
    if address := os.environ.get("OFFNOMINAL_TEST_BOOTSTRAP"):
        yield address
    else:
        with embedded_broker() as address:
            yield address


@pytest.fixture
def unique() -> str:
    """A word to begin the names of topics and groups with: no other test, worker or run has it."""
    return f"t{uuid.uuid4().hex[:12]}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long groups first: no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
