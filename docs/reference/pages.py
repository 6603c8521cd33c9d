"""Which pages there are, and what writes each. Used by `python -m docs.reference` and its test."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from docs.reference.api import api_page
from docs.reference.commands import commands_page
from docs.reference.dashboards import dashboards_page
from docs.reference.metrics import metrics_page
from docs.reference.rights import rights_page
from docs.reference.runbooks import runbooks_page
from docs.reference.values import values_page
from docs.reference.versions import versions_page

PAGES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "reference/api.md": api_page,
        "reference/commands.md": commands_page,
        "reference/dashboards.md": dashboards_page,
        "reference/metrics.md": metrics_page,
        "reference/rights.md": rights_page,
        "reference/values.md": values_page,
        "reference/versions.md": versions_page,
        "runbooks/index.md": runbooks_page,
    }
)
"""Path of the file in docs/pages, and what returns its text."""
