import os

import pytest

from concertina_api.v1alpha1 import Membership
from concertina_trainer.agent.mailbox import membership_inbox, put


def test_a_file_that_cannot_be_replaced_leaves_no_part(tmp_path):
    path = tmp_path / "membership.json"
    path.mkdir()

    with pytest.raises(OSError, match=r"membership\.json"):
        put(path, Membership(round=1))

    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_the_same_number_and_moment_is_still_another(tmp_path):
    inbox = membership_inbox(tmp_path)
    path = tmp_path / "membership.json"
    put(path, Membership(round=1))
    before = path.stat()
    assert inbox.read().round == 1

    path.write_text(Membership(round=2).model_dump_json(by_alias=True))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert inbox.read().round == 2
