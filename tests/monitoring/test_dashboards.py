"""The dashboards as files: what is committed, what their queries name, how they are laid out."""

import pytest
from PIL import Image

from charts.dashboards.documents import FOLDER, documents
from tests.cluster.pods import REPOSITORY
from tests.monitoring.canvas import DIGEST
from tests.monitoring.checks import MAY_BE_EMPTY
from tests.monitoring.dashboards import (
    NAMES,
    digest,
    panel_queries,
    queries,
    read_dashboard,
    variables,
)
from tests.monitoring.expressions import problems

TYPES = {"row", "stat", "timeseries", "bargauge", "table"}
COLUMNS = 24
PICTURES = REPOSITORY / "docs/pages/pictures"

each_dashboard = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("name", [f"{name}.json" for name in NAMES])
def test_the_chart_has_what_the_definitions_say(name):
    assert (FOLDER / name).read_text() == documents()[name], "run `python -m charts.dashboards`"


def test_the_uids_are_those_that_links_and_bookmarks_name():
    assert {name: read_dashboard(name)["uid"] for name in NAMES} == {
        "fleet": "concertina-fleet",
        "job": "concertina-job",
    }


@each_dashboard
def test_every_query_names_metrics_and_labels_that_are_exported(name):
    found = {str(query): problems(query.expression) for query in queries(name)}
    found |= {variable: problems(selector) for variable, selector, _ in variables(name)}
    assert {place: wrong for place, wrong in found.items() if wrong} == {}


@each_dashboard
def test_every_panel_says_what_it_shows_in_which_unit(name):
    for panel in _panels(name):
        assert panel["description"].endswith("."), panel["title"]
        has_words = panel["options"].get("textMode") == "name"
        is_table = panel["type"] == "table"
        assert has_words or is_table or panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@each_dashboard
def test_every_query_is_asked_of_the_chosen_data_source(name):
    for panel in _panels(name):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]


@each_dashboard
def test_the_panels_fill_the_grid_without_overlapping(name):
    taken = set()
    for panel in read_dashboard(name)["panels"]:
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    rows = {row for _, row in taken}
    assert taken == {(column, row) for column in range(COLUMNS) for row in rows}


@each_dashboard
def test_titles_and_ids_are_unique_and_types_are_those_that_the_pictures_draw(name):
    panels = read_dashboard(name)["panels"]
    assert {panel["type"] for panel in panels} <= TYPES
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [(panel["title"], panel["type"]) for panel in panels]
    assert len(set(titles)) == len(titles)


@each_dashboard
def test_the_series_of_a_panel_have_names_of_their_own(name):
    for panel in _panels(name):
        legends = [query.legend for query in panel_queries(name, panel)]
        assert panel["type"] == "table" or len(set(legends)) == len(legends), panel["title"]


def test_the_fleet_opens_the_dashboard_of_a_job():
    (table,) = (panel for panel in _panels("fleet") if panel["type"] == "table")
    links = [
        entry["value"][0]["url"]
        for override in table["fieldConfig"]["overrides"]
        for entry in override["properties"]
        if entry["id"] == "links"
    ]
    assert [link.split("?")[0] for link in links] == ["/d/concertina-job"]


@each_dashboard
def test_each_dashboard_links_the_others_and_the_runbooks(name):
    links = read_dashboard(name)["links"]
    assert [link["type"] for link in links] == ["dashboards", "link"]
    assert links[0]["tags"] == read_dashboard(name)["tags"]


@each_dashboard
def test_the_picture_in_the_docs_shows_the_dashboard_as_it_is(name):
    with Image.open(PICTURES / f"{name}.png") as picture:
        assert picture.text[DIGEST] == digest(name), "run `python -m tests.monitoring.pictures`"


def test_what_may_be_empty_is_asked_somewhere():
    asked = [query.expression for name in NAMES for query in queries(name)]
    assert [part for part in MAY_BE_EMPTY if not any(part in one for one in asked)] == []


def _panels(name):
    return [panel for panel in read_dashboard(name)["panels"] if panel["type"] != "row"]
