import torch.distributed as dist

from concertina_trainer.rounds.control import Control, Flags
from concertina_trainer.rounds.transport import Groups
from tests import worlds


def beats(flags_by_rank):
    group = dist.new_group(backend="gloo")
    control = Control(Groups(dist.get_rank(), dist.get_world_size(), group, mesh=None))
    found = [control.beat(flags) for flags in flags_by_rank[dist.get_rank()]]
    return [*found, control.collect()]


def test_a_round_counts_when_all_have_seen_it_and_a_flag_when_anyone_raised_it():
    late = [Flags(round=1), Flags(round=1, stop=True), Flags(round=2)]
    early = [Flags(round=1), Flags(round=2), Flags(round=2, abandon=True)]
    for found in worlds.run(beats, 2, [late, early]):
        assert [agreement.round for agreement in found] == [None, 1, None, 2]
        assert [agreement.stop for agreement in found] == [False, False, True, False]
        assert [agreement.abandon for agreement in found] == [False, False, False, True]


def desk(number):
    from torch._C._distributed_c10d import HashStore

    from concertina_api.errors import RoundFailed
    from concertina_trainer.rounds.agreement import Greeting
    from concertina_trainer.rounds.desk import Desk

    store = HashStore()
    one = Desk(store, number=number, participants=("a", "b"), me="a")
    two = Desk(store, number=number, participants=("a", "b"), me="b")
    try:
        one.greet(Greeting(), superseded=lambda: True)
    except RoundFailed as error:
        first = str(error)
    try:
        two.greet(Greeting(), superseded=lambda: False)
    except RoundFailed as error:
        return first, str(error)
    return first, "went on alone"


def test_who_gives_up_a_round_gives_it_up_for_all():
    ((first, second),) = worlds.run(desk, 1, 7)

    assert first == second == "round 7 was given up before everyone had come"
