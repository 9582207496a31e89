"""`docs/openapi.json`: the web API as the daemon serves it at `/api/openapi.json`.

python -m detector.web.openapi > docs/openapi.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from prometheus_client import CollectorRegistry

from detector.config_service import HealthSettings
from detector.health import Health
from detector.web.server import routes


def openapi() -> dict[str, Any]:
    """The document as plain values."""
    return routes(Health(HealthSettings()), CollectorRegistry()).openapi()


if __name__ == "__main__":
    json.dump(openapi(), sys.stdout, indent=2)
    sys.stdout.write("\n")
