import json
import subprocess
import sys
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousGracefulExitError,
    RendezvousParameters,
    RendezvousTimeoutError,
    rendezvous_handler_registry,
)

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Member, Membership
from concertina_trainer.agent.rendezvous import MembershipRendezvous, create_handler
from tests.concertina_trainer.agent.pods import send_output_to, wait_for
from tests.ports import free_port
from tests.worlds import spawn

SCRIPT = Path(__file__).with_name("restarted.py")


class Changing:
    """A membership that a test changes."""

    def __init__(self, membership=None):
        self.membership = membership
        self.deleted = False

    def latest(self):
        return self.membership

    def gone(self):
        return self.deleted


def member(pod, port=None):
    return Member(
        pod=pod, uid=f"uid-{pod}", incarnation="a", host="127.0.0.1", port=port or free_port()
    )


def handler(source, pod="tiny-0", *, join_seconds=20.0):
    return MembershipRendezvous(
        source,
        run_id="tiny",
        pod=pod,
        uid=f"uid-{pod}",
        join_timeout=timedelta(seconds=join_seconds),
        read_timeout=timedelta(seconds=10),
    )


def test_every_round_has_a_store_that_nobody_wrote_to(tmp_path):
    port = free_port()
    source = Changing(Membership(round=3, members=(member("tiny-0", port),)))
    node = handler(source)

    first = node.next_rendezvous()
    assert (first.rank, first.world_size) == (0, 1)
    assert first.bootstrap_store_info.master_port == port
    first.store.underlying_store.set("written by workers", "1")
    assert node.num_nodes_waiting() == 0

    source.membership = Membership(round=4, members=(member("tiny-0", port),))
    assert node.num_nodes_waiting() == 1
    second = node.next_rendezvous()
    assert not second.store.underlying_store.check(["written by workers"])
    assert node.shutdown()


def test_a_newer_membership_supersedes_a_round_that_cannot_form():
    absent, me = member("tiny-1"), member("tiny-0")

    class Growing(Changing):
        """The absent pod is dropped once the round that names it was looked at for a while."""

        looks = 0

        def latest(self):
            self.looks += 1
            return Membership(round=1, members=(me, absent)) if self.looks < 10 else self.membership

    info = handler(Growing(Membership(round=2, members=(me,)))).next_rendezvous()

    assert (info.rank, info.world_size) == (0, 1)


def test_a_store_that_nobody_serves_is_left_for_a_newer_round():
    dead, me = member("tiny-1"), member("tiny-0")
    source = Changing(Membership(round=1, members=(dead, me)))
    node = handler(source, join_seconds=1)

    with pytest.raises(RendezvousTimeoutError, match=r"no round of tiny .* within 1 s"):
        node.next_rendezvous()
    source.membership = Membership(round=2, members=(me, dead), lost=())
    with pytest.raises(RendezvousTimeoutError):
        node.next_rendezvous()


def test_a_pod_that_is_dropped_exits_and_one_that_was_never_named_waits():
    me, other = member("tiny-0"), member("tiny-1")
    source = Changing(Membership(round=1, members=(me,)))
    named, unknown = handler(source), handler(source, "tiny-7", join_seconds=0.2)
    named.next_rendezvous()

    source.membership = Membership(round=2, members=(other,))

    with pytest.raises(RendezvousGracefulExitError, match="tiny-0 is not in round 2"):
        named.next_rendezvous()
    with pytest.raises(RendezvousTimeoutError):
        unknown.next_rendezvous()


def test_a_membership_that_is_gone_closes_the_rendezvous():
    source = Changing(Membership(round=1, members=(member("tiny-0"),)))
    node = handler(source)
    node.next_rendezvous()
    source.deleted = True

    assert node.num_nodes_waiting() == 1  # so that torch's agent asks for the next round
    with pytest.raises(RendezvousClosedError, match="the membership of tiny is gone"):
        node.next_rendezvous()


def test_torchrun_finds_the_backend_and_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("CONCERTINA_POD", raising=False)
    monkeypatch.delenv("CONCERTINA_UID", raising=False)
    parameters = RendezvousParameters("concertina", "membership.json", "tiny", 1, 2, pod="tiny-0")

    with pytest.raises(InvalidJob, match=r"--rdzv-conf=pod=<name>,uid=<uid>.* uid None"):
        rendezvous_handler_registry.create_handler(parameters)

    monkeypatch.setenv("CONCERTINA_UID", "u")
    assert rendezvous_handler_registry.create_handler(parameters).get_backend() == "concertina"
    assert create_handler(parameters).use_agent_store


def test_the_entry_point_does_not_import_torch():
    code = (
        "import sys; from concertina_trainer.agent.rendezvous_entry import entry; entry();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_stock_torchrun_restarts_its_workers_in_every_round(run):
    with ExitStack() as stack:
        first, notes_0 = torchrun(run, "tiny-0", stack)
        me = member("tiny-0")
        run.publish(1, me)
        start = noted(notes_0, 1)
        assert (start["RANK"], start["WORLD_SIZE"]) == ("0", "1")
        assert start["MASTER_PORT"] == str(me.port)

        second, notes_1 = torchrun(run, "tiny-1", stack)
        old, new = member("tiny-0"), member("tiny-1")
        run.publish(2, new, old)  # the newcomer leads
        for notes, number, want_rank in ((notes_0, 2, "1"), (notes_1, 1, "0")):
            note = noted(notes, number)
            assert (note["RANK"], note["WORLD_SIZE"], note["sum"]) == (want_rank, "2", 2)
            assert note["MASTER_PORT"] == str(new.port)

        run.publish(3, member("tiny-0"))
        assert noted(notes_0, 3)["WORLD_SIZE"] == "1"
        second.join(60)
        assert second.exitcode is not None  # torchrun trips over a dropped pod: any code will do
        assert first.is_alive()


def torchrun(run, name, stack):
    """A started torchrun of one pod, and the file in which its script notes its starts."""
    folder = run.folder / name
    folder.mkdir()
    arguments = [
        "--nnodes=1:4",
        "--rdzv-backend=concertina",
        f"--rdzv-endpoint={run.membership}",
        "--rdzv-id=tiny",
        f"--rdzv-conf=pod={name},uid=uid-{name},join_timeout=60,read_timeout=20",
        str(SCRIPT),
        str(folder / "notes"),
    ]
    process = spawn(run_torchrun, arguments, str(folder / "log"))
    stack.callback(end, process)
    return process, folder / "notes"


def run_torchrun(arguments, log):
    from torch.distributed.run import main

    send_output_to(log)
    main(arguments)


def end(process):
    """SIGTERM, so that torchrun ends its workers."""
    process.terminate()
    process.join(30)
    process.kill()


def noted(notes, number):
    """The note of the start of this number."""

    def found():
        with suppress(FileNotFoundError):
            lines = notes.read_text().splitlines()
            return json.loads(lines[number - 1]) if len(lines) >= number else None

    return wait_for(found, lambda: notes.with_name("log").read_text())
