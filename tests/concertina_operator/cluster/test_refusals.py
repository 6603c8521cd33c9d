from datetime import timedelta

from concertina_operator.cluster.refusals import Refusals, time_to_next
from concertina_operator.observed import Phase
from tests.concertina_operator.factories import at


def refused(refusals, *, now, words="exceeded quota"):
    return refusals.note("job-uid", "tiny-lm-0", words=words, is_taken=False, now=now)


def test_a_refused_pod_is_pending_since_it_was_first_refused_in_the_servers_words():
    refusals = Refusals()
    refused(refusals, now=at(0))
    refused(refusals, now=at(30), words="exceeded quota: again")
    (refusal,) = refusals.of("job-uid")
    pod = refusal.as_pod()
    assert (pod.phase, pod.created, pod.placed) == (Phase.PENDING, at(0), False)
    assert pod.message == "tiny-lm-0: exceeded quota: again"


def test_a_refused_pod_is_tried_less_and_less_often_but_within_two_minutes():
    refusals, pauses = Refusals(), []
    for _ in range(8):
        refusal = refused(refusals, now=at(0))
        pauses.append(refusal.again_at - at(0))
    assert pauses[0] < pauses[2] < timedelta(minutes=2)
    assert pauses[3:] == [pauses[3]] * 5
    assert pauses[3] <= timedelta(minutes=2)
    assert time_to_next(refusals.of("job-uid"), now=at(1)) == pauses[-1] - timedelta(seconds=1)
    assert time_to_next(refusals.of("job-uid"), now=refusal.again_at) is None


def test_pods_that_nobody_wants_any_more_are_forgotten():
    refusals = Refusals()
    for index in range(3):
        refusals.note("uid", f"tiny-lm-{index}", words="quota", is_taken=False, now=at(0))
    refusals.forget_all_but("uid", {"tiny-lm-1", "tiny-lm-7"})
    assert [refusal.name for refusal in refusals.of("uid")] == ["tiny-lm-1"]


def test_the_words_about_another_object_stand_until_the_server_takes_it_or_the_job_is_gone():
    refusals = Refusals()
    refusals.note_object("uid", "RoleBinding", words="")
    assert refusals.objects_of("uid") == {}
    refusals.note_object("uid", "RoleBinding", words="forbidden")
    assert refusals.objects_of("uid") == {"RoleBinding": "forbidden"}
    refusals.note_object("uid", "RoleBinding", words="")
    assert refusals.objects_of("uid") == {}
    refusals.note_object("uid", "RoleBinding", words="forbidden")
    refusals.forget_job("uid")
    assert refusals.objects_of("uid") == {}


def test_what_is_forgotten_is_not_told_again():
    refusals = Refusals()
    refused(refusals, now=at(0))
    refusals.forget("job-uid", "tiny-lm-0")
    assert refusals.of("job-uid") == ()
    refused(refusals, now=at(0))
    refusals.forget_job("job-uid")
    assert refusals.of("job-uid") == ()
    assert time_to_next((), now=at(0)) is None
