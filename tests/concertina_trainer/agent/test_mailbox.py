import pytest

from concertina_api.v1alpha1 import Membership
from concertina_trainer.agent.mailbox import put


def test_a_file_that_cannot_be_replaced_leaves_no_part(tmp_path):
    path = tmp_path / "membership.json"
    path.mkdir()

    with pytest.raises(OSError, match=r"membership\.json"):
        put(path, Membership(round=1))

    assert list(tmp_path.iterdir()) == [path]
