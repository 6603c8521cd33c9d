"""Prints the demo on a real node as kubectl watches it: `python -m tests.e2e.kubelet.record`.

README holds such a record. Rows in which nothing but the age is new are left out.
"""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.fixtures import node_of_its_own
from tests.e2e.kubelet.operators import Operator, install
from tests.e2e.kubelet.runs import applied
from tests.e2e.kubelet.test_demo import document


def main() -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(node_of_its_own())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        operator = Operator(install(cluster, folder), folder / "operator.log")
        stack.callback(operator.kill)
        operator.start()
        run = stack.enter_context(applied(cluster, operator, folder / "run", document()))
        command = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}"]
        command += [f"--namespace={run.namespace}", "get", "atj", "--watch"]
        watch = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(watch.terminate)
        assert watch.stdout is not None
        told = None
        for row in watch.stdout:
            if (news := row.split()[:-1]) != told:
                print(row.rstrip(), flush=True)
            told = news
            if news[1] in ("Completed", "Failed"):
                return


if __name__ == "__main__":
    main()
