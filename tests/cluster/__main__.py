"""A cluster for trying things out: `python -m tests.cluster up|down|kubeconfig`."""

import argparse
import sys

from tests.cluster.build import BuildFailure, binaries, build
from tests.cluster.cluster import ClusterFailure
from tests.cluster.layout import Layout, Level, Ports, default_state, free_ports
from tests.cluster.lifecycle import start, stop
from tests.cluster.tools import CONTROL_PLANE, TOOLS


def main(arguments: list[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    level = Level(chosen.level)
    state = default_state(level)
    match chosen.command:
        case "up":
            layout = Layout(
                level=level,
                state=state,
                binaries=binaries(),
                ports=free_ports() if level is Level.CONTROL_PLANE else Ports(),
                gpus=chosen.gpus if level is Level.NODE else 0,
                kwok=chosen.kwok,
                audit=chosen.audit,
                queries_per_second=chosen.queries_per_second,
            )
            try:
                build(CONTROL_PLANE if level is Level.CONTROL_PLANE else TOOLS)
                print(start(layout).kubeconfig)
            except (BuildFailure, ClusterFailure) as error:
                print(error, file=sys.stderr)
                return 1
        case "down":
            stop(state)
        case "kubeconfig":
            path = state / "admin.kubeconfig"
            if not path.exists():
                print(f"no {level} is up", file=sys.stderr)
                return 1
            print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "kubeconfig"))
    parser.add_argument(
        "--level", choices=tuple(Level), default=Level.NODE, help="default: %(default)s"
    )
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of the node; default: 8")
    parser.add_argument("--kwok", action="store_true", help="run KWOK, for imagined nodes")
    parser.add_argument("--audit", action="store_true", help="record requests in log/audit.jsonl")
    parser.add_argument("--queries-per-second", type=int, default=200, help="of the controllers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
