"""The files of the chart that hold the dashboards; a test compares them with what is committed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from charts.dashboards.fleet import fleet
from charts.dashboards.job import job

FOLDER: Final = Path(__file__).parents[1] / "concertina" / "files" / "dashboards"


def documents() -> Mapping[str, str]:
    """The text of each file, by name."""
    built = {"fleet.json": fleet().build(), "job.json": job().build()}
    return {name: _text(dashboard) for name, dashboard in built.items()}


def _text(dashboard: Dashboard) -> str:
    for number, panel in enumerate(dashboard.panels or (), start=1):
        panel.id_val = number  # links to a panel name it
    return json.dumps(dashboard, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
