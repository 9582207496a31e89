"""apprise is loaded once, before the tests."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(scope="session", autouse=True)
def _apprise() -> None:
    """What it can encrypt mails with imports a module that Python 3.13 has no more, and warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import apprise

        apprise.Apprise.instantiate("json://localhost")
