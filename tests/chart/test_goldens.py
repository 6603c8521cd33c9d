"""The files that the chart wraps are what the code says."""

from pathlib import Path

import yaml

from concertina_operator.cluster.policies import admission_policies
from concertina_operator.cluster.rights import (
    node_rights,
    operator_rights,
    trainer_rights,
    user_rights,
)

FILES = Path(__file__).parents[2] / "charts/concertina/files"


class Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice."""

    def ignore_aliases(self, _data):
        return True


def rules_yaml():
    """Lists of rules by name; what only the operator of all namespaces may do is a list of its own."""
    operator, _, lease, _ = operator_rights(namespace="any", jobs_in="any")
    of_all, *_ = operator_rights(namespace="any", jobs_in=None)
    nodes, _ = node_rights(namespace="any", jobs_in=None)
    (trainer,) = trainer_rights(jobs_in=None)
    view, edit = user_rights()
    number = len(operator["rules"])
    assert of_all["rules"][:number] == operator["rules"]
    lists = {
        "operator": operator["rules"],
        "operatorOfAll": of_all["rules"][number:],
        "lease": lease["rules"],
        "nodes": nodes["rules"],
        "trainer": trainer["rules"],
        "view": view["rules"],
        "edit": edit["rules"],
    }
    return yaml.dump(lists, Dumper=Dumper, sort_keys=False, width=100)


def policies_yaml():
    return yaml.dump_all(admission_policies(), Dumper=Dumper, sort_keys=False, width=100)


GOLDENS = {"rules.yaml": rules_yaml, "policies.yaml": policies_yaml}


def test_the_committed_files_are_what_the_code_says():
    """Made anew by `python -m tests.chart.test_goldens`; crd.yaml has a command of its own."""
    assert {name: (FILES / name).read_text() for name in GOLDENS} == {
        name: made() for name, made in GOLDENS.items()
    }


if __name__ == "__main__":
    for name, made in GOLDENS.items():
        (FILES / name).write_text(made())
