from concertina_api.v1alpha1 import Membership, TrainingMembership
from concertina_trainer.agent.mailbox import put
from concertina_trainer.agent.membership import MembershipFile


def publish(path, number, **fields):
    put(path, TrainingMembership(spec=Membership(round=number, **fields)))


def test_the_newest_membership_is_read_and_a_lower_round_is_not_believed(tmp_path):
    path = tmp_path / "membership.json"
    source = MembershipFile(path)
    assert source.latest() is None

    publish(path, 3)
    assert source.latest().round == 3
    publish(path, 3, probe=1)
    assert source.latest().probe == 1
    publish(path, 2)
    assert source.latest().round == 3
    path.write_text("rubbish")
    assert source.latest().round == 3


def test_only_a_membership_that_was_read_can_be_gone(tmp_path):
    path = tmp_path / "membership.json"
    source = MembershipFile(path)
    assert not source.gone()

    publish(path, 1)
    source.latest()
    assert not source.gone()
    path.unlink()
    assert source.gone()
    assert source.latest().round == 1
