"""Runs the processes of one cluster: `python supervisor.py <state folder> attached|detached`.

A program of its own, of the standard library only: on a node it is process 1 of the cluster's PID
namespace, where it reaps what is left to it. It does the steps of `steps.json` in order, then writes
`ready`, or `failed` with the reason, and ends. Later it obeys orders: a file `orders/<component>`
that holds `start`, `stop`, `freeze` or `thaw`, removed when that is done. A component that ends by
itself is started again, as a kubelet does it: kube-scheduler gives up when its cache contradicts
the API server, which it may after an outage. When the supervisor ends, so does every process that
it started; attached, it ends with whoever holds the other end of its input.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

TICK_SECONDS = 0.05
UNTIL_SECONDS = 120.0
AGAIN_SECONDS = 1.0
"""Between the end of a component and its next start."""
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
SIGNALS = {"stop": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
"""What the orders send; the fourth order is `start`."""


class StepFailed(Exception):
    """The cluster cannot be started; the message says what failed."""


class Supervisor:
    """The processes of one cluster."""

    def __init__(self, state: Path, *, attached: bool) -> None:
        self.state = state
        self.attached = attached
        self.argv: dict[str, list[str]] = {}
        self.pids: dict[str, int] = {}
        self.ended: dict[int, int] = {}
        self.due: dict[str, float] = {}
        """When components that ended by themselves are started again."""

    def start_all(self, steps: list[dict]) -> None:
        """Do the steps; raises StepFailed."""
        for step in steps:
            argv = step["argv"]
            match step["do"]:
                case "start":
                    self.argv[step["name"]] = argv
                    self.pids[step["name"]] = self.spawn(argv, log=step["name"])
                case "run":
                    if code := self.run(argv):
                        raise StepFailed(
                            f"`{' '.join(argv)}` ended with {code}{self.tail('steps')}"
                        )
                case "until":
                    self.until(argv)

    def until(self, argv: list[str]) -> None:
        """Run a command until it succeeds."""
        deadline = time.monotonic() + UNTIL_SECONDS
        while self.run(argv):
            if time.monotonic() > deadline:
                raise StepFailed(f"`{' '.join(argv)}` failed for {UNTIL_SECONDS:.0f} s")
            self.tick()

    def run(self, argv: list[str]) -> int:
        """Run a command to its end; its exit code."""
        pid = self.spawn(argv, log="steps")
        while pid not in self.ended:
            self.tick(0.01)
            for name, code in self.gone().items():
                raise StepFailed(f"{name} ended with {code}{self.tail(name)}")
        return self.ended.pop(pid)

    def spawn(self, argv: list[str], *, log: str) -> int:
        output = os.open(self.state / "log" / f"{log}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        pid = os.fork()
        if pid:
            os.close(output)
            return pid
        try:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.execvp(argv[0], argv)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error}\n".encode())
        finally:
            os._exit(127)

    def tick(self, seconds: float = TICK_SECONDS) -> None:
        """Wait a little, reap, and end if the owner has gone."""
        readable, _, _ = select.select([0] if self.attached else [], [], [], seconds)
        if readable and not os.read(0, 1):
            sys.exit("the owner has gone")
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.ended[pid] = os.waitstatus_to_exitcode(status)

    def serve(self) -> None:
        """Obey orders until the end."""
        while True:
            self.tick()
            for order in (self.state / "orders").iterdir():
                if not order.name.startswith("."):
                    self.obey(order.name, order.read_text())
                    order.unlink()
            for name, code in self.gone().items():
                print(f"{name} ended with {code}", flush=True)
                self.due[name] = time.monotonic() + AGAIN_SECONDS
            for name in [name for name, at in self.due.items() if at <= time.monotonic()]:
                self.obey(name, "start")
            # On a node every orphan comes here: nobody asks for its code.
            self.ended.clear()

    def obey(self, name: str, order: str) -> None:
        print(f"{order} {name}", flush=True)
        self.due.pop(name, None)
        if order == "start" and name in self.argv and name not in self.pids:
            self.pids[name] = self.spawn(self.argv[name], log=name)
        elif order in SIGNALS and name in self.pids:
            os.kill(self.pids[name], SIGNALS[order])
            while order == "stop" and name in self.pids:
                self.tick(0.01)
                self.gone()
        else:
            print(f"nothing to {order}", flush=True)

    def gone(self) -> dict[str, int]:
        """The components that ended since this was asked last, with their exit codes."""
        found = {name: self.ended.pop(pid) for name, pid in self.pids.items() if pid in self.ended}
        self.pids = {name: pid for name, pid in self.pids.items() if name not in found}
        return found

    def tail(self, log: str) -> str:
        lines = (self.state / "log" / f"{log}.log").read_text(errors="replace").splitlines()
        return "".join(f"\n    {line}" for line in lines[-8:])


def tell(path: Path, words: str) -> None:
    """Write a file that is seen whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(words)
    partial.rename(path)


def main(folder: str, mode: str) -> int:
    state = Path(folder)
    for descriptor in [int(link.name) for link in Path("/proc/self/fd").iterdir()]:
        # A lock that was handed down is this process's, not its children's.
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                continue  # the listing's own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    supervisor = Supervisor(state, attached=mode == "attached")
    tell(state / "started", "")
    try:
        supervisor.start_all(json.loads((state / "steps.json").read_text()))
    except StepFailed as error:
        tell(state / "failed", str(error))
        return 1
    tell(state / "ready", "")
    supervisor.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
