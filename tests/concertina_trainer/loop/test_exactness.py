"""Each sentence of the claim: the run is the same run at every world size."""

import json
import re
from collections import defaultdict

import pytest
import torch
from safetensors import safe_open

from tests.play import play
from tests.tasks import job_document

RESIZES = {0: [0], 2: [0, 1], 4: [0, 1, 2, 3], 6: [2, 3, 1], 8: [3]}
"""Grow twice, then rank 0 leaves, then all but one."""
STEPS = 10

# Largest difference of the loss to one worker, over ten steps, by optimizer: a few times what
# float32 summation order gave. Muon iterates in bfloat16.
BOUNDS = {
    "AdamW": 2e-6,
    "SGD": 2e-6,
    "Adagrad": 2e-5,
    "NAdam": 2e-5,
    "Muon": 5e-4,
    "Preconditioned": 2e-5,
}


def document(num_micro_batches, **config):
    batch = 2 * num_micro_batches
    training = config.pop("training", {})
    return job_document(
        samples=batch * STEPS,
        batch={"microBatchSize": 2, "initial": batch, "max": batch, "rule": {"name": "Fixed"}},
        config=config,
        training=training,
    )


def differences(ours, reference):
    return [abs(a - b) for a, b in zip(ours.losses, reference.losses, strict=True)]


@pytest.mark.parametrize("optimizer", list(BOUNDS))
def test_a_series_of_resizes_leaves_samples_and_losses_alone(tmp_path, optimizer):
    # Five micro-batches: no world size but one divides them.
    job = document(5, optimizer=optimizer, dropout=0.1)
    reference = play(job, tmp_path / "one", {0: [0]})
    resized = play(job, tmp_path / "resized", RESIZES)

    assert [row["world_size"] for row in resized.steps] != [1] * STEPS
    assert {row["world_size"] for row in resized.steps} == {1, 2, 3, 4}
    assert resized.samples == reference.samples == [(10 * n, 10) for n in range(STEPS)]
    assert max(differences(resized, reference)) <= BOUNDS[optimizer]
    assert reference.losses[-1] != pytest.approx(reference.losses[0], abs=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"checkpointed": True}, id="activation checkpointing"),
        # The inductor compiles for half a minute on a slow machine.
        pytest.param({"compiled": True}, id="torch.compile", marks=pytest.mark.matrix),
    ],
)
def test_wrapped_blocks_go_through_resizes(tmp_path, config):
    job = document(4, **config)
    reference = play(document(4), tmp_path / "plain", {0: [0]})
    resized = play(job, tmp_path / "resized", {0: [0], 3: [0, 1], 6: [1]})

    assert {row["world_size"] for row in resized.steps} == {1, 2}
    assert max(differences(resized, reference)) <= 1e-5


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"batch_norm": True, "dropout": 0.1}, id="batch norm and dropout"),
        pytest.param({"token_weights": True}, id="unequal weights"),
        pytest.param(
            {"training": {"gradientSync": "LastMicroBatch", "gradientClip": 0.5}},
            id="reduced once, clipped",
        ),
    ],
)
def test_a_fixed_world_gives_the_run_of_one_worker(tmp_path, one_worker, config, world_size):
    job = document(3, **config)
    reference = one_worker(job)
    run = play(job, tmp_path, {0: list(range(world_size))})

    assert run.samples == reference.samples
    assert max(differences(run, reference)) <= 2e-6


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory):
    """The run of one worker, once per job."""
    runs = {}

    def run(job):
        key = json.dumps(job)
        if key not in runs:
            runs[key] = play(job, tmp_path_factory.mktemp("one"), {0: [0]})
        return runs[key]

    return run


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            {"optimizer": "AdamW", "training": {"averageDecay": 0.9}}, id="AdamW, average"
        ),
        pytest.param({"optimizer": "Muon", "training": {"precision": "BFloat16"}}, id="Muon, bf16"),
        pytest.param({"optimizer": "Preconditioned", "batch_norm": True}, id="replicated state"),
    ],
)
def test_state_is_bitwise_the_same_before_and_after_each_resize(tmp_path, config):
    play(document(4, **config), tmp_path / "run", RESIZES, dumps=tmp_path / "dumps")

    states = assembled(tmp_path / "dumps")
    rounds = sorted({number for number, point in states if point == "greet"})
    assert rounds == [2, 3, 4, 5]
    for number in rounds:
        before, after = states[number, "greet"], states[number, "commit"]
        assert before.keys() == after.keys()
        assert sum(name.startswith("optimizer/") for name in before) > 0
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype, name
            assert torch.equal(tensor, after[name]), (number, name)


def assembled(folder):
    """Full tensors by (round, point), each rank's rows put together."""
    parts = defaultdict(dict)
    for path in folder.iterdir():
        number, point, rank, world = re.match(r"(\d+)-(\w+)-(\d+)-of-(\d+)", path.name).groups()
        parts[int(number), point][int(rank)] = path
        parts[int(number), point]["world"] = int(world)
    return {key: assemble(part) for key, part in parts.items()}


def assemble(part):
    world = part.pop("world")
    assert sorted(part) == list(range(world))
    tensors, extra = defaultdict(list), set()
    for rank in range(world):
        with safe_open(part[rank], "pt") as file:
            extra.add(file.metadata()["extra"])
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensors[name].append(file.get_tensor(name))
    assert len(extra) == 1
    state = {"extra": torch.frombuffer(bytearray(extra.pop().encode()), dtype=torch.uint8)}
    for name, pieces in tensors.items():
        replicated = name.startswith("buffer/") or name.endswith("covariance")
        if replicated:
            assert all(torch.allclose(piece, pieces[0]) for piece in pieces), name
        state[name] = pieces[0] if replicated else torch.cat(pieces)
    return state


def test_decisions_are_equal_at_every_world_size(tmp_path):
    batch = {
        "microBatchSize": 2,
        "initial": 4,
        "max": 32,
        "rule": {"name": "NormTest", "eta": 0.7, "horizonSamples": 32, "everySamples": 16},
        "shadowRules": [{"name": "NoiseScale"}, {"name": "Ramp", "stages": [{"samples": 64, "batch": 6}]}],
    }  # fmt: skip
    job = job_document(samples=256, batch=batch)
    runs = [
        play(job, tmp_path / "one", {0: [0]}),
        play(job, tmp_path / "three", {0: [0, 1, 2]}),
        play(job, tmp_path / "resized", {0: [0], 3: [0, 1], 6: [1, 2, 3]}),
    ]

    batches = [[row["global_batch_size"] for row in run.steps] for run in runs]
    assert batches[0] == batches[1] == batches[2]
    assert max(batches[0]) == 32
    for decisions in zip(*(run.decisions for run in runs), strict=True):
        effective = {decision["effective"] for decision in decisions}
        margins = [abs(d["margin"]) for d in decisions if d["margin"] is not None]
        assert len(effective) == 1 or min(margins) < 1e-4


def test_evaluation_gives_the_same_value_at_every_world_size_and_through_a_resize(tmp_path):
    # 37 samples are 19 micro-batches, the last one of half size.
    job = document(3, evaluation_size=37, training={"evaluateEverySamples": 24})
    scripts = {"one": {0: [0]}, "four": {0: [0, 1, 2, 3]}, "resized": {0: [0], 3: [0, 1, 2]}}
    values = {}
    for name, script in scripts.items():
        rows = play(job, tmp_path / name, script).rows
        values[name] = [
            (row["samples"], row["evaluation"]["held_out"]) for row in rows if "evaluation" in row
        ]

    assert [samples for samples, _ in values["one"]] == [0, 24, 48, 60]
    for name in ("four", "resized"):
        assert [samples for samples, _ in values[name]] == [0, 24, 48, 60]
        for (_, ours), (_, want) in zip(values[name], values["one"], strict=True):
            assert ours == pytest.approx(want, abs=2e-6)


@pytest.mark.matrix
def test_the_same_process_trains_through_all_resizes_without_leaks(tmp_path):
    # Forty resizes: every pod changes its rank each time, so rows move in every one.
    orders = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [1, 0, 2]]
    job = job_document(
        samples=8 * 84,
        batch={"microBatchSize": 2, "initial": 8, "max": 8, "rule": {"name": "Fixed"}},
    )
    run = play(job, tmp_path, {2 * number: orders[number % 4] for number in range(41)})

    assert len({row["round"] for row in run.steps}) == 41
    for history in run.resources:
        descriptors, threads, resident = zip(*history, strict=True)
        assert max(descriptors[20:]) <= max(descriptors[:10]) + 2
        assert max(threads[20:]) <= max(threads[:10]) + 1
        assert resident[-1] - resident[10] < 24 * 2**20
