"""What both dashboards have around their panels: name, variables, links, time. Pure."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from charts.dashboards.panels import SOURCE

FLEET_UID: Final = "concertina-fleet"
JOB_UID: Final = "concertina-job"
"""They are part of bookmarks and of the alerts' links: they never change."""
TAG: Final = "concertina"
RUNBOOKS: Final = "https://concertina.dev/runbooks/"
JOBS: Final = "concertina_job_state"
"""The metric that every job has, whatever it does: the variables take their values from it."""


def frame(title: str, *, uid: str, description: str) -> dashboard.Dashboard:
    """A dashboard without panels and variables but the data source's."""
    made = dashboard.Dashboard(title).uid(uid).description(description).tags([TAG]).editable()
    made = made.time("now-6h", "now").refresh("30s").timezone("browser")
    made = made.tooltip(model.DashboardCursorSync.CROSSHAIR)
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return made.with_variable(source).link(_other_dashboards()).link(_runbooks())


def namespaces(*, label: str = "Namespace") -> dashboard.QueryVariable:
    """All namespaces that have jobs."""
    return _from_jobs("namespace").label(label).query(f"label_values({JOBS}, namespace)")


def jobs_of_the_namespace() -> dashboard.QueryVariable:
    """All jobs of the namespace that was chosen."""
    asked = f'label_values({JOBS}{{namespace="$namespace"}}, job)'
    return _from_jobs("job").label("Job").query(asked)


def _from_jobs(name: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).datasource(SOURCE)
    variable = variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.sort(model.VariableSort.ALPHABETICAL_ASC)


def _other_dashboards() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Concertina").type(model.DashboardLinkType.DASHBOARDS)
    return link.tags([TAG]).keep_time(True)  # noqa: FBT003 - the SDK's


def _runbooks() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Runbooks").type(model.DashboardLinkType.LINK).url(RUNBOOKS)
    return link.icon("doc").tooltip("What each alert means, and what to do").target_blank(True)  # noqa: FBT003 - the SDK's
