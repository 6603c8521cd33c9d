import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import MAX_BATCH, Batch, Rule, RuleName
from concertina_trainer.schedule.estimator import Smoothed
from concertina_trainer.schedule.rules import decide, policy_of


def batch_of(rule=None, micro_batch_size=4, initial=8, maximum=128):
    return Batch(
        micro_batch_size=micro_batch_size,
        initial=initial,
        max=maximum,
        rule=rule or Rule(),
    )


def policy(rule=None, *, total_samples=20_000, warmup_samples=1000, **sizes):
    batch = batch_of(rule, **sizes)
    return policy_of(
        batch.rule, batch=batch, total_samples=total_samples, warmup_samples=warmup_samples
    )


def averages(noise_scale):
    return Smoothed(gradient_variance=noise_scale, square_norm=1.0, weight=0.5)


NO_SIGNAL = Smoothed(gradient_variance=1.0, square_norm=-1.0, weight=0.5)
NORM_TEST = Rule(name=RuleName.NORM_TEST, eta=0.8)
RAMP = Rule(
    name=RuleName.RAMP,
    stages=[
        {"samples": 0, "batch": 8},
        {"samples": 500, "batch": 24},
        {"samples": 900, "batch": 128},
    ],
)


@pytest.mark.parametrize(
    ("smoothed", "batch", "want_batch", "want_reason"),
    [
        pytest.param(
            averages(114.0), 32, 64,
            "noise scale 114 x 0.562 (eta 0.8) = 64.1 samples wanted, now 32, grown to 64",
            id="doubles",
        ),
        pytest.param(
            averages(400.0), 32, 64,
            "noise scale 400 x 0.562 (eta 0.8) = 225 samples wanted, now 32,"
            " growth capped at 2x: grown to 64",
            id="capped growth",
        ),
        pytest.param(
            averages(64.0), 32, 32,
            "noise scale 64 x 0.562 (eta 0.8) = 36 samples wanted, now 32,"
            " held below the threshold 45.3",
            id="within the hysteresis",
        ),
        pytest.param(
            averages(10.0), 32, 32,
            "noise scale 10 x 0.562 (eta 0.8) = 5.62 samples wanted, now 32, held",
            id="wants less: the batch never shrinks",
        ),
        pytest.param(
            averages(1000.0), 64, 128,
            "noise scale 1e+03 x 0.562 (eta 0.8) = 562 samples wanted, now 64,"
            " grown to the maximum 128",
            id="to the maximum",
        ),
        pytest.param(
            averages(1000.0), 128, 128,
            "noise scale 1e+03 x 0.562 (eta 0.8) = 562 samples wanted, now 128,"
            " held at the maximum 128",
            id="at the maximum",
        ),
        pytest.param(
            NO_SIGNAL, 8, 16,
            "no signal left under the gradient noise, now 8, growth capped at 2x: grown to 16",
            id="pure noise",
        ),
        pytest.param(
            Smoothed(), 8, 8,
            "no estimate: no step had two micro-batches, now 8, held",
            id="no estimate",
        ),
    ],
)  # fmt: skip
def test_the_norm_test_decides_with_a_reason(smoothed, batch, want_batch, want_reason):
    decision = decide(smoothed, samples=5000, batch=batch, policy=policy(NORM_TEST))
    assert (decision.effective, decision.reason) == (want_batch, want_reason)
    assert decision.grow == (want_batch > batch)
    assert decision.previous == batch


def test_nothing_grows_before_the_hold_is_over():
    decision = decide(averages(1e6), samples=999, batch=8, policy=policy(NORM_TEST))
    assert decision.effective == 8
    assert decision.reason.endswith("now 8, held until 1000 samples")
    assert decide(averages(1e6), samples=1000, batch=8, policy=policy(NORM_TEST)).effective == 16


def test_a_larger_growth_cap_takes_several_sizes_at_once():
    rule = Rule(name=RuleName.NORM_TEST, max_growth=8)
    sizes = {
        scale: decide(averages(scale), samples=5000, batch=8, policy=policy(rule)).effective
        for scale in (20.0, 21.0, 41.0, 81.0, 1e6)
    }
    assert sizes == {20.0: 8, 21.0: 16, 41.0: 32, 81.0: 64, 1e6: 64}


def test_a_maximum_off_the_doubling_grid_is_reached():
    off_grid = policy(NORM_TEST, maximum=100)
    assert decide(NO_SIGNAL, samples=5000, batch=64, policy=off_grid).effective == 100


@pytest.mark.parametrize(
    ("smoothed", "want_requested", "want_scale"),
    [
        pytest.param(averages(1000.0), 563, 1000.0, id="above the maximum"),
        pytest.param(averages(10.0), 6, 10.0, id="below the batch that runs"),
        pytest.param(averages(0.0), 1, 0.0, id="identical samples"),
        pytest.param(NO_SIGNAL, MAX_BATCH, None, id="pure noise"),
        pytest.param(Smoothed(), 32, None, id="no estimate"),
    ],
)
def test_the_request_is_what_the_rule_wants_on_no_grid(smoothed, want_requested, want_scale):
    decision = decide(smoothed, samples=5000, batch=32, policy=policy(NORM_TEST))
    assert (decision.requested, decision.noise_scale) == (want_requested, want_scale)


@pytest.mark.parametrize(
    ("smoothed", "batch", "want_margin"),
    [
        pytest.param(averages(64.0), 32, (36 - 45.2548) / 45.2548, id="below"),
        pytest.param(averages(160.0), 32, (90 - 45.2548) / 90, id="above"),
        pytest.param(NO_SIGNAL, 32, 1.0, id="pure noise"),
        pytest.param(averages(0.0), 32, -1.0, id="identical samples"),
        pytest.param(averages(160.0), 128, None, id="at the maximum nothing can change"),
        pytest.param(Smoothed(), 32, None, id="no estimate"),
    ],
)
def test_the_margin_tells_how_close_the_decision_was(smoothed, batch, want_margin):
    margin = decide(smoothed, samples=5000, batch=batch, policy=policy(NORM_TEST)).margin
    assert margin == (None if want_margin is None else pytest.approx(want_margin, rel=1e-5))


@pytest.mark.parametrize(
    ("samples", "batch", "want_batch", "want_reason"),
    [
        pytest.param(
            400, 8, 8, "stage from 0 samples on wants 8 samples, now 8, held", id="first stage"
        ),
        pytest.param(
            500, 8, 24, "stage from 500 samples on wants 24 samples, now 8, grown to 24",
            id="any multiple of m, also during warm-up",
        ),
        pytest.param(
            905, 24, 128, "stage from 900 samples on wants 128 samples, now 24, grown to 128",
            id="no growth cap",
        ),
        pytest.param(
            600, 64, 64, "stage from 500 samples on wants 24 samples, now 64, held",
            id="the batch never shrinks",
        ),
    ],
)  # fmt: skip
def test_a_ramp_follows_its_stages(samples, batch, want_batch, want_reason):
    decision = decide(Smoothed(), samples=samples, batch=batch, policy=policy(RAMP))
    assert (decision.effective, decision.reason) == (want_batch, want_reason)


def test_a_ramp_waits_for_its_first_stage_and_for_a_hold_that_was_asked_for():
    late = Rule(name=RuleName.RAMP, stages=[{"samples": 700, "batch": 64}], hold_samples=800)
    reasons = {
        samples: decide(Smoothed(), samples=samples, batch=8, policy=policy(late)).reason
        for samples in (100, 750)
    }
    assert reasons == {
        100: "first stage begins at 700 samples, now 8, held",
        750: "stage from 700 samples on wants 64 samples, now 8, held until 800 samples",
    }


def test_a_fixed_batch_is_held():
    decision = decide(NO_SIGNAL, samples=5000, batch=8, policy=policy(Rule(name="Fixed")))
    assert (decision.effective, decision.reason) == (8, "the batch is fixed, now 8, held")


@pytest.mark.parametrize(
    ("rule", "total_samples", "want"),
    [
        pytest.param(Rule(), 20_000, (1200, 800, 1000), id="a share of the run"),
        pytest.param(Rule(), 2_000, (500, 333, 1000), id="at least 500 samples"),
        pytest.param(
            Rule(horizon_samples=768, every_samples=512, hold_samples=0), 20_000, (768, 512, 0),
            id="as given",
        ),
        pytest.param(RAMP, 20_000, (1200, 800, 0), id="a ramp is not held"),
    ],
)  # fmt: skip
def test_a_policy_has_defaults_for_the_length_of_the_run(rule, total_samples, want):
    found = policy(rule, total_samples=total_samples)
    assert (found.horizon_samples, found.every_samples, found.hold_samples) == want


@pytest.mark.parametrize(
    ("rule", "after", "want_moment"),
    [
        pytest.param(Rule(), -1, 1800, id="one interval after the hold"),
        pytest.param(Rule(), 1799, 1800, id="still the first"),
        pytest.param(Rule(), 1800, 2600, id="the second"),
        pytest.param(Rule(), 5100, 5800, id="late steps do not move later ones"),
        pytest.param(RAMP, -1, 0, id="the first stage"),
        pytest.param(RAMP, 510, 900, id="the next stage"),
        pytest.param(RAMP, 900, None, id="after the last stage"),
    ],
)
def test_decisions_have_their_moments(rule, after, want_moment):
    assert policy(rule).next_decision(after=after) == want_moment


def test_a_growth_cap_below_the_grid_is_refused():
    with pytest.raises(InvalidJob, match=r"maxGrowth 1.5 is below 2"):
        policy(Rule(max_growth=1.5))


def test_a_decision_is_recorded_with_its_numbers():
    decision = decide(averages(114.0), samples=5000, batch=32, policy=policy(NORM_TEST))
    assert decision.to_json() == {
        "rule": "NormTest",
        "requested": 65,
        "effective": 64,
        "grow": True,
        "reason": decision.reason,
        "noise_scale": 114.0,
        "margin": pytest.approx(0.2943, abs=1e-4),
    }


SCALES = st.floats(min_value=0, max_value=1e9) | st.just(math.inf)
EXAMPLES = settings(deadline=None, max_examples=200)


def averages_of(scale):
    return NO_SIGNAL if math.isinf(scale) else averages(scale)


@st.composite
def policies(draw):
    size = draw(st.integers(1, 8))
    initial = size * draw(st.integers(1, 16))
    maximum = max(initial, size * draw(st.integers(1, 4096)))
    knobs = {
        "max_growth": draw(st.floats(2, 64)),
        "hysteresis": draw(st.floats(1, 4)),
        "hold_samples": draw(st.integers(0, 2000)),
    }
    match draw(st.sampled_from(RuleName)):
        case RuleName.NORM_TEST:
            rule = Rule(eta=draw(st.floats(0.05, 0.99)), **knobs)
        case RuleName.NOISE_SCALE:
            rule = Rule(name="NoiseScale", fraction=draw(st.floats(0.01, 100)), **knobs)
        case RuleName.RAMP:
            stages = [
                {"samples": start, "batch": size * draw(st.integers(1, maximum // size))}
                for start in sorted(draw(st.sets(st.integers(0, 4000), min_size=1, max_size=5)))
            ]
            rule = Rule(name="Ramp", stages=stages, **knobs)
        case RuleName.FIXED:
            rule = Rule(name="Fixed", **knobs)
    return policy(rule, micro_batch_size=size, initial=initial, maximum=maximum)


@EXAMPLES
@given(policies(), st.lists(st.tuples(st.integers(1, 1000), SCALES), max_size=12))
def test_every_rule_grows_in_whole_micro_batches_up_to_the_maximum(policy, moments):
    batch, samples = policy.batch.initial, 0
    for passed, scale in moments:
        samples += passed
        decision = decide(averages_of(scale), samples=samples, batch=batch, policy=policy)
        assert batch <= decision.effective <= policy.batch.max
        assert decision.effective <= policy.max_growth * batch
        assert decision.effective % policy.batch.micro_batch_size == 0
        assert decision.effective == batch or samples >= policy.hold_samples
        assert 1 <= decision.requested <= MAX_BATCH
        assert decision.margin is None or -1 <= decision.margin <= 1
        assert f"now {batch}, " in decision.reason
        batch = decision.effective


@EXAMPLES
@example(eta=0.8, scale=114.0, batch=32)
@given(eta=st.floats(0.05, 0.99), scale=SCALES, batch=st.sampled_from([8, 16, 32, 64, 128]))
def test_the_norm_test_is_a_fraction_of_the_noise_scale(eta, scale, batch):
    fraction = 1 / eta**2 - 1
    decisions = [
        decide(averages_of(scale), samples=5000, batch=batch, policy=policy(rule))
        for rule in (Rule(eta=eta), Rule(name="NoiseScale", fraction=fraction))
    ]
    facts = [(d.requested, d.effective, d.margin, d.noise_scale) for d in decisions]
    assert facts[0] == facts[1]


@EXAMPLES
@given(eta=st.floats(0.3, 0.95), variance=st.floats(1e-3, 1e6), signal=st.floats(1e-3, 1e6))
def test_a_wish_for_more_is_a_failed_norm_test(eta, variance, signal):
    """Variance of the mean gradient above eta^2 of its expected square norm, as published."""
    batch = 32
    fails = variance / batch > eta**2 * (signal + variance / batch)
    wanted = (1 / eta**2 - 1) * variance / signal
    assume(abs(wanted - batch) > 1e-6 * batch)
    rule = Rule(eta=eta, hysteresis=1)
    smoothed = Smoothed(gradient_variance=variance, square_norm=signal, weight=1.0)
    assert decide(smoothed, samples=5000, batch=batch, policy=policy(rule)).grow == fails


@EXAMPLES
@given(policies(), st.integers(0, 10_000))
def test_identical_samples_never_grow_the_batch(policy, samples):
    assume(policy.rule.name is not RuleName.RAMP)
    same = Smoothed(gradient_variance=0.0, square_norm=1.0, weight=0.5)
    assert not decide(same, samples=samples, batch=policy.batch.initial, policy=policy).grow


@EXAMPLES
@given(policies())
def test_pure_noise_reaches_the_maximum(policy):
    assume(policy.rule.name in (RuleName.NORM_TEST, RuleName.NOISE_SCALE))
    batch = policy.batch.initial
    for _ in range(40):
        batch = decide(NO_SIGNAL, samples=10**6, batch=batch, policy=policy).effective
    assert batch == policy.batch.max
