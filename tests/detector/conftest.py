"""Versions of the small stream that many tests only read."""

from __future__ import annotations

import pytest

from detector.bundle import Bundle
from tests.detector.machines import trained


@pytest.fixture(scope="session")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("champion"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("other"), training={"records": 2_000, "seed": 3})
