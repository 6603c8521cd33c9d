import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concertina_api.v1alpha1 import Batch, BatchSizeRequest, Rule
from concertina_trainer.schedule.controller import (
    BatchController,
    renumbered,
    request,
    request_again,
)
from concertina_trainer.schedule.estimator import Smoothed, StepStatistics, estimate
from concertina_trainer.schedule.rules import Decision

RULE = Rule(horizon_samples=300, every_samples=200)


def controller_of(rule=RULE, shadow_rules=(), initial=8, maximum=128, warmup_samples=100):
    batch = Batch(
        micro_batch_size=4, initial=initial, max=maximum, rule=rule, shadow_rules=shadow_rules
    )
    return BatchController.of(batch, total_samples=10_000, warmup_samples=warmup_samples)


def step_of(batch, *, noise_scale, square_norm=1.0):
    """A step whose estimate is exactly this noise scale (inf: no signal)."""
    variance = 1.0 if math.isinf(noise_scale) else noise_scale * square_norm
    signal = 0.0 if math.isinf(noise_scale) else square_norm
    count = batch // 4
    mean = signal + variance / batch
    return StepStatistics(
        weighted_squares=batch * (mean + (count - 1) * variance / batch),
        square_norm=mean,
        num_micro_batches=count,
        samples=batch,
        weight=float(batch),
    )


def played(controller, steps, state=None):
    """Observations of a run: `steps` yields noise scales, None for a skipped step."""
    state = state or controller.start()
    samples = state.samples
    for scale in steps:
        samples += state.batch
        step = None if scale is None else step_of(state.batch, noise_scale=scale)
        observation = controller.observe(state, step, samples=samples)
        yield observation
        state = observation.state


def test_steps_of_the_tests_have_the_noise_scale_they_claim():
    new = estimate(step_of(32, noise_scale=50.0, square_norm=2.0))
    assert new.gradient_variance == pytest.approx(100.0)
    assert new.square_norm == pytest.approx(2.0)


def test_decisions_come_one_interval_after_warm_up_and_then_at_every_interval():
    moments = [
        observation.state.samples
        for observation in played(controller_of(), [1.0] * 100)
        if observation.decision
    ]
    want_moments = [304, 504, 704]  # the first step boundaries at or after 300, 500, 700
    assert moments == want_moments


def test_an_interval_is_counted_from_where_a_decision_was_due():
    controller = controller_of(Rule(horizon_samples=300, every_samples=10))
    moments = [o.state.samples for o in played(controller, [1.0] * 20) if o.decision]
    assert moments == [112, 120, 136, 144, 152, 160]


def test_a_large_noise_scale_doubles_the_batch_and_raises_the_request():
    observations = list(played(controller_of(), [200.0] * 70))
    grown = [o for o in observations if o.decision and o.decision.grow]
    assert [o.decision.effective for o in grown] == [16, 32, 64, 128]
    assert [o.state.sequence for o in grown] == [1, 2, 3, 4]
    assert [o.state.batch for o in grown] == [16, 32, 64, 128]


def test_averages_start_anew_at_the_end_of_warm_up():
    observations = list(played(controller_of(), [2.0] * 13 + [50.0]))
    before, crossing, after = observations[-3:]
    assert before.state.track.smoothed.noise_scale == pytest.approx(2.0)
    assert crossing.state.track.smoothed == Smoothed()
    assert after.state.track.smoothed.noise_scale == pytest.approx(50.0)


def test_a_skipped_step_at_the_end_of_warm_up_also_starts_averages_anew():
    *_, crossing = played(controller_of(), [2.0] * 12 + [None])
    assert crossing.state.track.smoothed == Smoothed()


def test_a_skipped_step_leaves_averages_alone_and_puts_the_decision_off():
    observations = list(played(controller_of(), [200.0] * 37 + [None, None, 200.0]))
    before, first, second, good = observations[-4:]
    assert first.state == replace(before.state, samples=before.state.samples + 8)
    assert first.state.samples >= 300
    assert (first.decision, second.decision) == (None, None)
    assert good.decision.effective == 16


def test_a_run_of_one_micro_batch_per_step_never_grows_and_says_why():
    controller = BatchController.of(
        Batch(micro_batch_size=8, initial=8, max=64, rule=RULE),
        total_samples=10_000,
        warmup_samples=0,
    )
    state = controller.start()
    step = StepStatistics(
        weighted_squares=8.0, square_norm=1.0, num_micro_batches=1, samples=8, weight=8.0
    )
    observation = controller.observe(state, step, samples=200)
    assert observation.state.batch == 8
    assert observation.decision.reason.startswith("no estimate")


def test_a_ramp_grows_at_the_first_boundary_at_or_after_its_stage():
    ramp = Rule(name="Ramp", stages=[{"samples": 20, "batch": 40}, {"samples": 70, "batch": 128}])
    observations = list(played(controller_of(ramp), [1.0] * 7))
    batches = [o.state.batch for o in observations]
    assert batches[:5] == [8, 8, 40, 40, 128]  # after 8, 16, 24, 64, 104 samples
    assert [bool(o.decision) for o in observations] == [False, False, True, False, True] + 2 * [
        False
    ]


def test_shadow_rules_are_decided_and_not_acted_on():
    eager = Rule(name="NoiseScale", fraction=10, horizon_samples=300, every_samples=100)
    controller = controller_of(shadow_rules=[eager, Rule(name="Fixed", every_samples=200)])
    observations = list(played(controller, [3.0] * 50))
    assert {o.state.batch for o in observations} == {8}
    decided = [[d.rule.value for d in o.shadows] for o in observations if o.shadows]
    assert decided == [["NoiseScale"], ["NoiseScale", "Fixed"], ["NoiseScale"]]
    eager_decision = next(o.shadows[0] for o in observations if o.shadows)
    assert (eager_decision.requested, eager_decision.effective) == (30, 16)


def test_the_request_carries_the_decision():
    observation = next(o for o in played(controller_of(), [200.0] * 70) if o.decision)
    assert request(observation.state, observation.decision) == BatchSizeRequest(
        sequence=1,
        requested=113,
        effective=16,
        reason=observation.decision.reason,
        noise_scale=observation.decision.noise_scale,
    )


def test_what_the_newest_decision_asked_for_is_remembered_also_when_it_held():
    states = [o.state for o in played(controller_of(), [200.0] * 70 + [1.0] * 300)]
    grown = next(state for state in states if state.batch == 16)
    assert request_again(grown).requested == grown.requested == 113
    assert states[-1].requested < states[-1].batch


def test_without_a_bound_of_its_own_a_wish_is_bounded_by_the_largest_batch():
    states = [o.state for o in played(controller_of(maximum=64), [math.inf] * 70)]
    assert max(state.requested for state in states) == 64


def test_a_state_of_before_wishes_were_kept_asks_for_the_batch_that_runs():
    controller = controller_of()
    document = replace(controller.start(), batch=32).to_json()
    del document["requested"]
    assert controller.restore(document).requested == 32


def test_a_state_goes_on_after_json_as_if_nothing_had_happened():
    controller = controller_of(shadow_rules=[Rule(name="NoiseScale")])
    scales = [*np.random.default_rng(0).uniform(1, 400, size=80)]
    whole = list(played(controller, scales))
    restored = controller.restore(json.loads(json.dumps(whole[39].state.to_json())))
    assert restored == whole[39].state
    assert list(played(controller, scales[40:], restored)) == whole[40:]


@pytest.mark.parametrize(
    ("initial", "maximum", "want_batch"),
    [
        pytest.param(8, 64, 32, id="as before"),
        pytest.param(8, 16, 16, id="lower maximum"),
        pytest.param(64, 128, 64, id="higher initial batch"),
    ],
)
def test_a_restored_state_obeys_a_changed_manifest(initial, maximum, want_batch):
    grown = replace(controller_of().start(), batch=32, sequence=2)
    changed = controller_of(initial=initial, maximum=maximum)
    assert changed.restore(grown.to_json()) == replace(grown, batch=want_batch)


@pytest.mark.parametrize(
    ("sequence", "accepted", "want_sequence"),
    [
        pytest.param(0, 0, 0, id="the very start"),
        pytest.param(2, 0, 2, id="a new operator"),
        pytest.param(2, 7, 8, id="back at a checkpoint"),
        pytest.param(0, 7, 8, id="back at the seed"),
        pytest.param(9, 7, 9, id="nobody has heard the newest"),
    ],
)
def test_after_a_roll_back_the_batch_of_then_is_asked_for_anew(sequence, accepted, want_sequence):
    state = replace(controller_of().start(), batch=16, sequence=sequence)
    want = replace(state, sequence=want_sequence)
    assert renumbered(state, accepted=accepted) == want


def test_shadow_rules_that_were_added_start_anew():
    *_, last = played(controller_of(), [200.0] * 20)
    changed = controller_of(shadow_rules=[Rule(name="NoiseScale")])
    restored = changed.restore(last.state.to_json())
    assert restored.track == last.state.track
    assert restored.shadows == changed.start().shadows


SCALES = st.none() | st.floats(0, 1e6) | st.just(math.inf)


@settings(deadline=None, max_examples=100)
@given(st.lists(SCALES, max_size=120), st.integers(0, 500), st.sampled_from([8, 24, 100, 128]))
def test_the_batch_of_a_run_only_grows_and_never_passes_the_maximum(scales, warmup, maximum):
    controller = controller_of(maximum=maximum, warmup_samples=warmup)
    before = controller.start()
    for observation in played(controller, scales):
        state, decision = observation.state, observation.decision
        assert before.batch <= state.batch <= maximum
        assert state.sequence == before.sequence + (state.batch > before.batch)
        assert state.batch == before.batch or isinstance(decision, Decision)
        assert decision is None or state.samples >= warmup + RULE.every_samples
        before = state


def test_a_run_of_identical_samples_never_grows_and_one_of_pure_noise_reaches_the_maximum():
    *_, same = played(controller_of(), [0.0] * 400)
    *_, noise = played(controller_of(), [math.inf] * 400)
    assert (same.state.batch, noise.state.batch) == (8, 128)
