"""Numbers as Grafana writes them."""

import pytest

from tests.monitoring.dashboards import Chosen
from tests.monitoring.units import written


@pytest.mark.parametrize(
    ("value", "unit", "want"),
    [
        pytest.param(0.1234, "percentunit", "12.3%", id="share"),
        pytest.param(0, "s", "0 s", id="no time"),
        pytest.param(0.00002, "s", "20 µs", id="microseconds"),
        pytest.param(0.0921, "s", "92.1 ms", id="milliseconds"),
        pytest.param(59, "s", "59 s", id="seconds"),
        pytest.param(90, "s", "1.5 min", id="minutes"),
        pytest.param(7200, "s", "2 hours", id="hours"),
        pytest.param(2 * 86400, "s", "2 days", id="days"),
        pytest.param(1536 * 1024, "bytes", "1.5 MiB", id="bytes"),
        pytest.param(4180, "short", "4.18 K", id="thousands"),
        pytest.param(12288, "none", "12288", id="plain number"),
        pytest.param(0.000735, "sci", "0.000735", id="small number"),
    ],
)
def test_a_number_has_its_unit(value, unit, want):
    assert written(value, unit) == want


def test_a_unit_that_is_not_known_is_refused():
    with pytest.raises(AssertionError, match="furlong"):
        written(1, "furlong")


def test_variables_become_what_grafana_sends():
    chosen = Chosen(
        namespace="research", job="big", range_seconds=3600, step_seconds=15, scrape_seconds=15
    )
    expression = 'rate(x{job="$job"}[$__rate_interval]) + y{namespace="$namespace"}[$__range]'
    want = 'rate(x{job="big"}[60s]) + y{namespace="research"}[3600s]'
    assert chosen.substitute(expression) == want


def test_a_variable_that_is_not_known_is_refused():
    chosen = Chosen(namespace="a", job="b", range_seconds=60, step_seconds=1, scrape_seconds=1)
    with pytest.raises(AssertionError, match="cluster"):
        chosen.substitute('up{cluster="$cluster"}')
