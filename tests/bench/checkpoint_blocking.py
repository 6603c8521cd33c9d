"""Time that training waits for a checkpoint, against torch.distributed.checkpoint.save.

    python tests/bench/checkpoint_blocking.py [--quick]

Both save the same live state (25M parameters with AdamW moments, two workers) in random order, with
a training step between any two saves. Ours is `Saver.save`, a copy to host memory; until its files
are durable, which is shown apart, nothing else runs. `ratio` is the median over rounds of
dcp.save / ours on the slowest rank, with its range. Beside it, `dcp.async_save`, torch's own way to
save in the background: what the loop waits for it.
"""

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch.distributed as dist

from tests import worlds
from tests.bench.figures import arguments, line, ranged, ratios
from tests.bench.tasks import sized

WORLD_SIZE = 2
DEADLINE_SECONDS = 300.0


def measure(job: Mapping[str, Any], folder: str, port: int, rounds: int) -> dict[str, list[float]]:
    """Body of a rank: seconds by kind of save."""
    import torch.distributed.checkpoint as dcp

    from concertina_api.v1alpha1 import Membership
    from concertina_trainer.agent.mailbox import membership_inbox
    from concertina_trainer.loop.saving import Saver
    from tests.bench.driver import run_step, training

    path = Path(folder)
    with training(job, path, port=port) as (session, task):
        steps = iter(session)
        run_step(steps, task)
        keeper = session.keeper
        rank = keeper.live.groups.rank
        apart = dist.new_group(backend="gloo")  # async_save talks while training does
        membership = membership_inbox(path / f"pod-{rank}").read()
        assert isinstance(membership, Membership)
        saver = Saver(keeper._spec, job="bench", run_dir=path, may_publish=lambda: True)
        saver.enter(membership, rank=rank)
        saver.reserve(keeper.hold())
        times: dict[str, list[float]] = {"ours": [], "durable": [], "dcp": [], "dcp_async": []}

        def save_ours(number: int) -> None:
            begun = time.perf_counter()
            times["ours"].append(timed(lambda: saver.save(keeper.hold())))
            wait_durable(saver, keeper.progress.step, leads=rank == 0)
            times["durable"].append(time.perf_counter() - begun)

        def save_dcp(number: int) -> None:
            place = path / f"dcp-{number}"
            times["dcp"].append(timed(lambda: dcp.save(state_of(keeper), checkpoint_id=place)))
            remove(place, leads=rank == 0)

        def save_dcp_async(number: int) -> None:
            place = path / f"dcp-async-{number}"
            futures: list[Any] = []
            times["dcp_async"].append(
                timed(
                    lambda: futures.append(
                        dcp.async_save(state_of(keeper), checkpoint_id=place, process_group=apart)
                    )
                )
            )
            futures[0].result()
            remove(place, leads=rank == 0)

        kinds: list[Callable[[int], None]] = [save_ours, save_dcp, save_dcp_async]
        order = random.Random(0)
        for number in range(rounds):
            for kind in order.sample(kinds, k=len(kinds)):
                run_step(steps, task)
                kind(number)
        saver.close()
    return times


def timed(work: Callable[[], object]) -> float:
    """Seconds of `work`, begun together with the other ranks."""
    dist.barrier()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def state_of(keeper: Any) -> dict[str, Any]:
    """The live parameters and moments as torch's checkpoint takes them."""
    live = keeper.live
    state = {}
    for name, parameter in live.model.named_parameters():
        state[f"model/{name}"] = parameter.detach()
        for key in ("exp_avg", "exp_avg_sq"):
            state[f"optimizer/{name}/{key}"] = live.optimizer.state[parameter][key]
    return state


def wait_durable(saver: Any, step: int, *, leads: bool) -> None:
    """Until the leader has published the checkpoint of this step."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while leads and (saver.last is None or saver.last.step < step):
        assert time.monotonic() < deadline, "the checkpoint did not become durable"
        time.sleep(0.001)
    dist.barrier()


def remove(folder: Path, *, leads: bool) -> None:
    """Remove a checkpoint that all have written, so that the disk does not fill."""
    dist.barrier()
    if leads:
        shutil.rmtree(folder)
    dist.barrier()


def main() -> None:
    parser = arguments("time that training waits for a checkpoint, against torch's own")
    parser.add_argument("--rounds", type=int, help="saves of each kind")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 12)
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    job = sized("25m", checkpoint={"path": "checkpoints", "everySeconds": 10**6, "keep": 1})
    with tempfile.TemporaryDirectory() as folder:
        ranks = worlds.run(
            measure, WORLD_SIZE, job, f"{folder}/run", store.port, rounds + 1, timeout_seconds=1800
        )
    # The first round warms both sides up: torch caches its plan, our memory gets its pages.
    kinds = {kind: [max(pair) for pair in zip(*(rank[kind] for rank in ranks), strict=True)][1:]
             for kind in ranks[0]}  # fmt: skip
    spreads = {"25M W=2": ranged(ratios(kinds["dcp"], kinds["ours"]))}
    print(
        line(
            "checkpoint_blocking",
            spreads,
            rounds=rounds,
            blocking_seconds=ranged(kinds["ours"]).to_json(),
            durable_seconds=ranged(kinds["durable"]).to_json(),
            dcp_save_seconds=ranged(kinds["dcp"]).to_json(),
            dcp_async_save_seconds=ranged(kinds["dcp_async"]).to_json(),
        )
    )


if __name__ == "__main__":
    main()
