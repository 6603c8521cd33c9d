"""How fast pods of many jobs are created, against Kubeflow's training-operator 1.8.1.

    python tests/bench/operator_scale_peer.py [--quick] [--jobs N] [--repeats N] [--peer-threads N]

200 jobs of 4 pods on KWOK: a PyTorchJob of a master and three workers for the peer, an
AdaptiveTrainingJob of 4 pods for us. `ratio` is the peer's time from the first job to the last pod
over ours. Both take turns, each on a control plane of its own, and run at their defaults. Those of
the peer allow it 20 requests a second (burst 30) for pods and services together, of which it makes
one each for a pod, and one job at a time: what is compared is what a user gets, not what it could do.
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import training_operator as peer
from tests.bench.figures import arguments, line, ranged, ratios
from tests.bench.fleet import NAMESPACE, Usage, jobs, open_fleet, wait_until_it_leads
from tests.cluster.build import build
from tests.cluster.tools import CONTROL_PLANE
from tests.concertina_operator.cluster.processes import operator_process

PODS_OF_A_JOB = 4
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"


def measure_ours(num_jobs: int, figures: dict[str, list[float]]) -> None:
    """One turn of the operator."""
    num_pods = num_jobs * PODS_OF_A_JOB
    documents = jobs(num_jobs, prefix="job", pods={"min": PODS_OF_A_JOB, "max": PODS_OF_A_JOB})
    with (
        open_fleet(num_pods) as fleet,
        operator_process(fleet.kubeconfig, NAMESPACE, fleet.folder / "log") as operator,
    ):
        wait_until_it_leads(operator)
        before = Usage.of(operator.process.pid)
        figures["ours"].append(fleet.seconds_until_created(documents, num_pods=num_pods))
        used = Usage.of(operator.process.pid).cpu_seconds - before.cpu_seconds
        figures["our_cpu"].append(used)


def measure_peer(num_jobs: int, figures: dict[str, list[float]], *, threads: int) -> None:
    """One turn of the peer."""
    num_pods = num_jobs * PODS_OF_A_JOB
    documents = peer.jobs(num_jobs, workers=PODS_OF_A_JOB - 1)
    with (
        open_fleet(num_pods) as fleet,
        peer.training_operator(fleet, f"--controller-threads={threads}") as process,
    ):
        before = Usage.of(process.pid)
        figures["peer"].append(
            fleet.seconds_until_created(documents, num_pods=num_pods, path=peer.JOBS)
        )
        used = Usage.of(process.pid).cpu_seconds - before.cpu_seconds
        figures["peer_cpu"].append(used)
        # One was there before: that of the API server.
        figures["services"].append((fleet.count(SERVICES) - 1) / num_pods)


def main() -> None:
    parser = arguments("pods per second, against Kubeflow's training-operator")
    parser.add_argument("--jobs", type=int, help="jobs of 4 pods")
    parser.add_argument("--repeats", type=int, help="turns of each side")
    parser.add_argument(
        "--peer-threads", type=int, default=1, help="jobs that the peer serves at once"
    )
    options = parser.parse_args()
    num_jobs = options.jobs or (40 if options.quick else 200)
    repeats = options.repeats or (1 if options.quick else 3)
    build(CONTROL_PLANE)
    peer.built()
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        measure_peer(num_jobs, figures, threads=options.peer_threads)
        measure_ours(num_jobs, figures)
    num_pods = num_jobs * PODS_OF_A_JOB

    def rate(name: str) -> list[float]:
        return ranged([num_pods / seconds for seconds in figures[name]]).to_json()

    print(
        line(
            "operator_scale_peer",
            {
                f"{num_jobs} jobs of {PODS_OF_A_JOB} pods": ranged(
                    ratios(figures["peer"], figures["ours"])
                )
            },
            repeats=repeats,
            pods_per_second=rate("ours"),
            peer_pods_per_second=rate("peer"),
            cpu_seconds=ranged(figures["our_cpu"]).to_json(),
            peer_cpu_seconds=ranged(figures["peer_cpu"]).to_json(),
            peer_services_per_pod=ranged(figures["services"]).to_json(),
            peer_threads=options.peer_threads,
        )
    )


if __name__ == "__main__":
    main()
