import pytest

from concertina_trainer.rounds.agreement import Greeting, Part, disagreement, source_of


def part(rank, *, step=5, number=1, world_size=2, replicated=7, norm=1.0):
    return Part(
        round=number, step=step, world_size=world_size, rank=rank,
        replicated={"progress": replicated}, norms={"optimizer state matrix": norm},
    )  # fmt: skip


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
