"""What ends with a job, and when: deadlines, and which of its pods stay."""

from tests.concertina_operator.cluster.trainers import a_trained_job

ACTIVE_SECONDS = 4


def is_over(trainers):
    return trainers.condition("Failed").get("reason") == "DeadlineExceeded"


def test_the_active_deadline_stands_still_while_a_job_is_suspended(crew):
    suspended, active = crew("-a"), crew("-b")
    suspended.create(a_trained_job(suspended.job, activeDeadlineSeconds=ACTIVE_SECONDS))
    suspended.until_trained_by(f"{suspended.job}-0")
    suspended.edit(suspend=True)
    suspended.until(
        lambda: suspended.holds("Suspended") and not suspended.pods(), "pods are still held"
    )

    # A job of the same deadline that begins now ends before the suspended one is resumed.
    active.create(a_trained_job(active.job, activeDeadlineSeconds=ACTIVE_SECONDS))
    active.until(lambda: is_over(active), "the active job goes on")
    assert 0 < suspended.status()["activeSeconds"] < ACTIVE_SECONDS

    suspended.edit(suspend=False)
    suspended.until_trained_by(f"{suspended.job}-0")
    suspended.until(lambda: is_over(suspended), "the resumed job goes on")


def a_failing_job(trainers, *, policy):
    """A job of two pods that fails when one of their trainers ends badly."""
    trainers.create(
        a_trained_job(
            trainers.job,
            cleanupPolicy=policy,
            failurePolicy={"backoffLimit": 0},
            scaling={"scaleUpCooldownSeconds": 0, "leaveDeadlineSeconds": 1},
        )
    )
    trainers.imagined.ask(64)


def fail(trainers):
    """Its first trainer ends, the second one hangs and will not go by itself."""
    first, second = (trainers.imagined.pods[f"{trainers.job}-{number}"] for number in range(2))
    second.silent = True
    trainers.imagined.kill(first, code=1)
    trainers.until(lambda: trainers.holds("Failed"), "not failed")
    assert trainers.condition("Failed")["reason"] == "BackoffLimitExceeded"


def test_pods_of_a_job_that_is_over_stay_or_go_as_its_policy_says(crew):
    jobs = {policy: crew(f"-{policy.lower()}") for policy in ("None", "Running", "All")}
    for policy, trainers in jobs.items():
        a_failing_job(trainers, policy=policy)
    for trainers in jobs.values():
        trainers.until_trained_by(f"{trainers.job}-0", f"{trainers.job}-1")
        fail(trainers)

    def left(policy):
        return [name.removeprefix(f"{jobs[policy].job}-") for name in jobs[policy].pods()]

    for policy, want in (("Running", ["0"]), ("All", [])):
        jobs[policy].until(lambda p=policy, w=want: left(p) == w, f"{policy} leaves other pods")
    # It failed first and has the same deadline for leaving: nothing will go any more.
    jobs["None"].turn()
    assert left("None") == ["0", "1"]
