"""`docs/openapi.json` is OpenAPI, is current, and is what the daemon serves."""

from __future__ import annotations

import json

from openapi_spec_validator import validate

from detector.web.openapi import openapi
from tests.docs.pages import ROOT

DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))


def test_the_committed_description_is_valid() -> None:
    validate(DOCUMENT)


def test_the_committed_description_is_current() -> None:
    assert openapi() == DOCUMENT, "run: make generated"


def test_health_metrics_and_the_api_are_described() -> None:
    assert set(DOCUMENT["paths"]) >= {"/healthz", "/readyz", "/metrics", "/api/overview", "/api/incidents"}
