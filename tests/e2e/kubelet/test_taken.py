"""A job that cannot have its pod: what the operator looks at then, and how such a job ends."""

from contextlib import closing

from concertina_operator.cluster import paths
from tests.cluster.pods import python_pod
from tests.e2e.kubelet.documents import growing

DEADLINE_SECONDS = 10
"""Time for a second try, after which nothing of the job's status has changed."""


def test_a_job_whose_pods_name_is_taken_ends_in_time_and_goes(
    node_cluster, operator, node_namespace
):
    job = growing(
        pods={"min": 1, "max": 1, "template": {"spec": python_pod("tiny-0")["spec"]}},
        activeDeadlineSeconds=DEADLINE_SECONDS,
        ttlSecondsAfterFinished=0,
    )
    pod = python_pod("tiny-0", nodeSelector={"example.com/no-node": "has-this"})
    with closing(node_cluster.admin()) as api:
        api.create(paths.pods(node_namespace), pod)
        api.create(paths.jobs(node_namespace), job)
        path = paths.jobs(node_namespace, "tiny")
        api.wait(path, lambda found: "belongs to" in str(found.get("status")), "not told why")
        api.wait_gone(path)
        assert api.find(paths.pods(node_namespace, "tiny-0")) is not None
