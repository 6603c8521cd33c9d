import pytest

from concertina_trainer.rounds.agreement import (
    Greeting,
    Losses,
    Part,
    disagreement,
    kept_of,
    losses_of,
    source_of,
)


def part(
    rank, *, step=5, number=1, world_size=2, replicated=7, norm=1.0, snapshot=False, copied=False
):
    return Part(
        round=number, step=step, world_size=world_size, rank=rank,
        replicated={"progress": replicated}, norms={"optimizer state matrix": norm},
        snapshot=snapshot or copied, copied=copied,
    )  # fmt: skip


def own(rank, *, step=4, **changes):
    """A worker's own part of a snapshot."""
    return part(rank, step=step, snapshot=True, **changes)


def kept(rank, *, step=4, **changes):
    """A neighbour's part of a snapshot."""
    return part(rank, step=step, copied=True, **changes)


def offers(*parts_by_participant):
    return [Greeting(parts=parts) for parts in parts_by_participant]


@pytest.mark.parametrize(
    ("greetings", "want"),
    [
        pytest.param(offers((), ()), None, id="nobody has anything: a first start"),
        pytest.param(offers((part(0),), (part(1),)), (5, (0, 1)), id="all are here"),
        pytest.param(offers((part(1),), (), (part(0),)), (5, (2, 0)), id="in any order"),
        pytest.param(offers((part(0),), ()), None, id="a part is missing"),
        pytest.param(
            offers((part(0),), (part(1, step=6),)), None, id="parts of different steps are no state"
        ),
        pytest.param(
            offers((part(0), part(0, number=2, world_size=1)), (part(1),)), (5, (0,)),
            id="of two complete states the newer round",
        ),
        pytest.param(
            offers((part(0), part(0, number=2)), (part(1),)), (5, (0, 1)),
            id="a round prepared by only some falls back to the one before",
        ),
        pytest.param(
            offers((part(0, step=9, world_size=1),), (part(0), part(1))), (9, (0,)),
            id="the newest step wins",
        ),
        pytest.param(
            offers((part(0), own(0), kept(1)), ()), (4, (0, 0)),
            id="a neighbour of the lost keeps its part",
        ),
        pytest.param(
            offers(
                (kept(2, world_size=3), own(0, world_size=3)),
                (kept(0, world_size=3), own(1, world_size=3)),
            ),
            (4, (0, 1, 0)), id="own parts go before copies",
        ),
        pytest.param(
            offers((own(0, world_size=4), kept(3, world_size=4)),
                   (own(3, world_size=4), kept(2, world_size=4))),
            None, id="two neighbours lost are more than the ring covers",
        ),
        pytest.param(
            offers((own(0, world_size=4), kept(3, world_size=4)),
                   (own(2, world_size=4), kept(1, world_size=4))),
            (4, (0, 1, 1, 0)), id="two that are no neighbours are covered",
        ),
        pytest.param(
            offers((part(0), own(0, step=5), kept(1, step=5)), ()), (5, (0, 0)),
            id="a state in hand is not completed by a snapshot of the same step",
        ),
        pytest.param(
            offers((part(0), own(0, step=5), kept(1, step=5)), (part(1), own(1, step=5))),
            (5, (0, 1)), id="a state in hand goes before a snapshot of the same step",
        ),
    ],
)  # fmt: skip
def test_the_source_is_the_newest_state_of_which_every_part_is_present(greetings, want):
    source = source_of(greetings)

    assert (source and (source.step, source.holders)) == want


def test_holders_that_contradict_each_other_are_named():
    greetings = offers((part(0),), (part(1, replicated=8),))

    message = disagreement(source_of(greetings), greetings)

    assert message == (
        "progress must be equal on all ranks, but after step 5 ranks [1] hold other values"
        " than rank 0"
    )


@pytest.mark.parametrize(("norm", "want_agreement"), [(1.00001, True), (1.01, False)])
def test_matrices_may_differ_by_rounding_only(norm, want_agreement):
    greetings = offers((part(0),), (part(1, norm=norm),))

    assert (disagreement(source_of(greetings), greetings) is None) is want_agreement


def test_a_snapshot_is_told_from_a_state_in_hand():
    assert source_of(offers((own(0), kept(1)), ())).snapshot
    assert not source_of(offers((part(0), own(0)), (part(1), own(1)))).snapshot


@pytest.mark.parametrize(
    ("greetings", "want"),
    [
        pytest.param(offers((part(0),), (part(1),)), None, id="no snapshot yet"),
        pytest.param(
            offers((part(0), own(0), kept(1)), (part(1), own(1), kept(0))), 4, id="the newest"
        ),
        pytest.param(
            offers((own(0), kept(1), own(0, step=6)), (own(1), kept(0))), 4,
            id="not one of which a part is missing",
        ),
        pytest.param(
            offers((own(0), kept(1), own(0, step=6), kept(1, step=6))), 6,
            id="one that a single member holds whole",
        ),
        pytest.param(
            offers((own(0), kept(1), own(0, step=6)), (own(1), kept(0), own(1, step=6))), 4,
            id="not one whose copies are under way",
        ),
        pytest.param(
            offers((own(0), kept(1), own(0, step=6)), (own(1, step=6),), ()), 4,
            id="one that hangs on one member goes before one that hangs on two",
        ),
        pytest.param(
            offers((own(0), own(0, step=6), kept(1, step=6)), (own(1),), ()), 6,
            id="also when that is the newer one",
        ),
        pytest.param(
            offers(
                (own(0), own(0, step=6, world_size=3), kept(2, step=6, world_size=3)),
                (own(1), own(1, step=6, world_size=3), kept(0, step=6, world_size=3)),
            ),
            6, id="of two that hang on as many members the newest",
        ),
    ],
)  # fmt: skip
def test_the_snapshot_that_the_loss_of_the_fewest_members_breaks_is_kept(greetings, want):
    state = kept_of(greetings)

    assert (state and state.step) == want


def test_losses_are_counted_among_the_workers_of_the_newest_round():
    def greeting(number, world_size, step):
        return Greeting(round=number, world_size=world_size, step=step)

    survivors = [greeting(7, 4, 12), greeting(7, 4, 13)]
    joiner, stale = greeting(0, 0, 0), greeting(5, 2, 9)

    assert losses_of([*survivors, joiner, stale]) == Losses(step=13, world_size=4, workers=2)
    assert losses_of([joiner]) == Losses(step=0, world_size=0, workers=0)
