"""Takeover after the leading operator is killed, against a controller of Kubernetes at its defaults.

    python tests/bench/operator_failover.py [--quick]

Ours: two replicas; the leader gets SIGKILL; the time until the lease names the other one, and until
that one has acted on a report that came in between (a pod exists for it). The rival: two
kube-schedulers with the leader election that controllers written with client-go have by default
(lease 15 s, renewed within 10 s, tried every 2 s). Both on the same API server, in turns.

`ratio` is the rival's seconds to a new holder over ours.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from concertina_operator.cluster.install import trainer_objects
from tests.bench.figures import arguments, line, ranged, ratios, rounded
from tests.cluster.api import Api, wait_for
from tests.cluster.cluster import Cluster, wait_for_namespace
from tests.cluster.fixtures import control_plane_of_its_own
from tests.concertina_operator.cluster.installed import apply_all
from tests.concertina_operator.cluster.processes import (
    by_leadership,
    operator_kubeconfig,
    operator_process,
)
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job, prepare_node

NAMESPACE = "default"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
OURS, RIVAL = f"{LEASES}/concertina-operator", f"{LEASES}/rival"


def holder(api: Api, lease: str) -> str:
    """Who holds the lease; empty when nobody does."""
    return str((api.find(lease) or {}).get("spec", {}).get("holderIdentity") or "")


def renewal(api: Api, lease: str) -> str:
    """When it was last renewed, as written."""
    return str(api.get(lease)["spec"]["renewTime"])


def takeover(api: Api, lease: str, kill: Callable[[], None]) -> tuple[float, float]:
    """When the present holder was killed, and the seconds to the first sight of another one."""
    before = wait_for(lambda: holder(api, lease), lambda: f"nobody holds {lease}")
    for _ in range(2):  # whoever stands by has seen a renewal then
        renewed = renewal(api, lease)
        wait_for(lambda: renewal(api, lease) != renewed, lambda: f"{lease} is not renewed")  # noqa: B023
    kill()
    killed = time.monotonic()
    wait_for(lambda: holder(api, lease) not in ("", before), lambda: f"{before} stays in {lease}")
    return killed, time.monotonic() - killed


def our_takeover(api: Api, kubeconfig: Path, folder: Path, number: int) -> tuple[float, float]:
    """Seconds to a new holder, and to the first pod by it."""
    with ExitStack() as stack:
        leader, standby = (
            stack.enter_context(
                operator_process(kubeconfig, NAMESPACE, folder / f"{number}-{name}")
            )
            for name in ("leader", "standby")
        )
        leader, standby = by_leadership(leader, standby)
        trainers = Trainers(api=api, namespace=NAMESPACE, job=f"takeover-{number}")
        trainers.create(a_trained_job(trainers.job))
        trainers.until_trained_by(f"takeover-{number}-0")
        killed, taken = takeover(api, OURS, leader.process.kill)
        trainers.imagined.ask(64)
        trainers.until_trained_by(f"takeover-{number}-0", f"takeover-{number}-1")
        acted = time.monotonic() - killed
        api.delete(f"{trainers.group}/adaptivetrainingjobs/{trainers.job}")
    api.delete(OURS)
    return taken, acted


@contextmanager
def schedulers(cluster: Cluster) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two of the rival; the first leads."""
    assert cluster.layout is not None
    command = [
        str(cluster.layout.binary("kube-scheduler")), f"--kubeconfig={cluster.kubeconfig}",
        "--leader-elect=true", "--leader-elect-resource-name=rival",
        f"--leader-elect-resource-namespace={NAMESPACE}", "--secure-port=0",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started: list[subprocess.Popen[bytes]] = []
    try:
        with closing(cluster.admin()) as api:
            for _ in range(2):
                started.append(subprocess.Popen(command, **quiet))
                wait_for(lambda: holder(api, RIVAL), lambda: "no scheduler leads")
            yield started
            api.delete(RIVAL)
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> None:
    parser = arguments("takeover after the leading operator is killed")
    parser.add_argument("--repeats", type=int, help="takeovers of each")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 7)
    ours, acted, rival = [], [], []
    with (
        control_plane_of_its_own(audit=False) as cluster,
        tempfile.TemporaryDirectory() as folder,
        closing(cluster.admin()) as api,
    ):
        wait_for_namespace(api, NAMESPACE)
        apply_all(api, trainer_objects())
        prepare_node(api)
        kubeconfig = operator_kubeconfig(cluster, api, NAMESPACE, Path(folder, "kubeconfig"))
        for number in range(repeats):
            taken, first_action = our_takeover(api, kubeconfig, Path(folder), number)
            ours.append(taken)
            acted.append(first_action)
            with schedulers(cluster) as (leader, _):
                rival.append(takeover(api, RIVAL, leader.kill)[1])
            print(
                f"{number}: ours {rounded(taken)} s, acted after {rounded(first_action)} s;"
                f" rival {rounded(rival[-1])} s",
                flush=True,
            )
    facts = {
        "seconds": ranged(ours).to_json(),
        "seconds_to_first_action": ranged(acted).to_json(),
        "rival_seconds": ranged(rival).to_json(),
    }
    spreads = {"takeover": ranged(ratios(rival, ours))}
    print(line("operator_failover", spreads, repeats=repeats, facts=facts))


if __name__ == "__main__":
    main()
