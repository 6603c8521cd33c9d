"""What the dashboards' queries make of counters that begin, are reset, or change their leader."""

import subprocess

import pytest
import yaml

from tests.monitoring.dashboards import Chosen, queries
from tests.monitoring.prometheus import built

CHOSEN = Chosen(
    namespace="research", job="big", range_seconds=600, step_seconds=60, scrape_seconds=60
)
OF_JOB = 'namespace="research", job="big"'
SECONDS = f'concertina_job_gpu_seconds_total{{{OF_JOB}, use="training", pod="%s"}}'
PHASE = 'concertina_operator_resize_phase_seconds_%s{phase="exchange", namespace="c", pod="a"}'
LEADER = 'concertina_operator_leader{namespace="%s", pod="%s"}'


@pytest.mark.parametrize(
    ("place", "legend", "series", "want"),
    [
        pytest.param(
            ("job", "Time lost in pauses"),
            "all pauses",
            {
                # Its agent was started anew in the chosen time; what it paused before is no part of it.
                f'concertina_resize_pause_seconds_total{{{OF_JOB}, pod="big-0"}}': "0+6x55 6+6x5",
                # It has begun to lead in the chosen time.
                f'concertina_resize_pause_seconds_total{{{OF_JOB}, pod="big-1"}}': "_x55 0+6x5",
                # It is gone for long.
                f'concertina_resize_pause_seconds_total{{{OF_JOB}, pod="big-2"}}': "0+9x20 stale",
            },
            60 + 30,
            id="a counter of the pods",
        ),
        pytest.param(
            ("fleet", "GPU hours"),
            "",
            {
                SECONDS % "a": "0+60x55 stale",
                SECONDS % "b": "_x56 3360+60x4",
            },
            540 / 3600,  # between the first and the last of ten scrapes
            id="a total that another leader goes on with",
        ),
        pytest.param(
            ("fleet", "Mean pause of a resize, by phase"),
            "{{phase}}",
            {PHASE % "sum": "0+90x40 3600+6x20", PHASE % "count": "0+3x60"},
            2,
            id="a mean that last month is no part of",
        ),
        pytest.param(
            ("fleet", "Operator leads"),
            "",
            {
                LEADER % ("team-a", "a"): "1x60",
                LEADER % ("team-a", "b"): "0x60",
                LEADER % ("team-b", "c"): "0x60",
            },
            0,
            id="one of two operators does not lead",
        ),
    ],
)
def test_a_panel_shows_what_the_chosen_time_has_added(place, legend, series, want, tmp_path):
    (found,) = (
        query
        for query in queries(place[0])
        if (query.place, query.legend.replace("__auto", "")) == (place[1], legend)
    )
    entries = [{"series": name, "values": values} for name, values in series.items()]
    expression = f"sum({CHOSEN.substitute(found.expression)})"
    sample = {"labels": "{}", "value": want}
    asked = {"expr": expression, "eval_time": "60m", "exp_samples": [sample]}
    case = {"interval": "1m", "input_series": entries, "promql_expr_test": [asked]}
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    done = subprocess.run(
        [str(built("promtool")), "test", "rules", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
