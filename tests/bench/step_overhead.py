"""Whole loop against a plain hand-written FSDP2 loop: what a step costs beyond the training.

    python tests/bench/step_overhead.py [--quick]

Both loops live in the same processes and take turns step by step, in random order: ours with
probe, agreement, record and status; the rival with the same model, data, accumulation, optimizer,
gradient clipping, and the loss all-reduced once per step. Every step begins at a barrier and lasts
as long as on the slowest rank. `ratio` is the median over pairs of rival / ours with its 95 %
bootstrap interval; `probe_share` is the arithmetic of the probe alone over the time of a step.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tests import worlds
from tests.bench.figures import arguments, interval, line, ratios, rounded
from tests.bench.tasks import document, sized

WARM_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One comparison."""

    name: str
    world_size: int
    pairs: int
    job: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds, on one rank."""

    ours: list[float]
    rival: list[float]
    probe: float
    """Arithmetic of the probe in one step."""


class PlainLoop:
    """What one would write by hand: FSDP2, accumulation, AdamW, clipping, a reduced loss."""

    def __init__(
        self, task: Any, mesh: DeviceMesh, *, num_micro_batches: int, micro_batch_size: int,
        clip: float, learning_rate: float,
    ) -> None:  # fmt: skip
        from concertina_api.v1alpha1 import Precision

        self.task = task
        with torch.device("meta"):
            self.model = task.build()
        task.shard(self.model, mesh, precision=Precision.FLOAT32)
        self.model.to_empty(device="cpu")
        self.optimizer = task.optimizer(self.model.named_parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.dataset = task.dataset()
        self.order = torch.randperm(
            len(self.dataset), generator=torch.Generator().manual_seed(0)
        ).tolist()
        self.position = 0
        self.rank, self.world_size = mesh.get_local_rank(), mesh.size()
        self.num_micro_batches = num_micro_batches
        self.micro_batch_size = micro_batch_size
        self.clip = clip

    @torch.no_grad()
    def start_from(self, model: nn.Module) -> None:
        """Take over another model's parameters."""
        for mine, other in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.to_local().copy_(other.to_local())

    def step(self) -> float:
        """One optimizer step; the mean loss over all ranks."""
        count, m = self.num_micro_batches, self.micro_batch_size
        total = torch.zeros(())
        for number in range(self.rank, count, self.world_size):
            batch = self._micro_batch(self.position + number * m)
            loss = self.task.loss(self.model, batch)
            mean = loss.total / loss.weight
            (mean * self.world_size / count).backward()
            total += mean.detach() / count
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        dist.all_reduce(total)
        self.position += count * m
        return total.item()

    def _micro_batch(self, first: int) -> Tensor:
        numbers = range(first, first + self.micro_batch_size)
        return torch.stack([self.dataset[self.order[n % len(self.order)]] for n in numbers])


def measure(job: Mapping[str, Any], folder: str, port: int, pairs: int) -> Times:
    """Body of a rank."""
    from tests.bench.driver import run_step, training

    with training(job, Path(folder), port=port) as (session, task):
        steps = iter(session)
        run_step(steps, task)
        live, spec = session.keeper.live, session.keeper._spec
        count = spec.batch.initial // spec.batch.micro_batch_size
        rival = PlainLoop(
            task,
            live.groups.mesh,
            num_micro_batches=count,
            micro_batch_size=spec.batch.micro_batch_size,
            clip=spec.training.gradient_clip,
            learning_rate=spec.learning_rate.peak,
        )
        rival.start_from(live.model)
        loops: list[Callable[[], object]] = [lambda: run_step(steps, task), rival.step]
        for _ in range(WARM_STEPS):
            for loop in loops:
                loop()
        probe = probe_seconds(task.build()) * -(-count // live.groups.world_size)
        order = random.Random(0)
        times: list[list[float]] = [[], []]
        for _ in range(pairs):
            for number in order.sample((0, 1), k=2):
                times[number].append(timed(loops[number]))
    return Times(ours=times[0], rival=times[1], probe=probe)


def timed(work: Callable[[], object]) -> float:
    """Seconds of `work`, begun together with the other ranks."""
    dist.barrier()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def probe_seconds(model: nn.Module) -> float:
    """Seconds that the probe computes in one backward pass: a norm of every gradient, added up."""
    from concertina_trainer.statistics.norms import block_norms, sum_of_squares

    gradients = [torch.randn_like(parameter) for parameter in model.parameters()]

    def add() -> None:
        sum_of_squares([block_norms(gradient) for gradient in gradients])

    return median(timed(add) for _ in range(20))


def compare(case: Case) -> list[Times]:
    """Times by rank."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        return worlds.run(
            measure, case.world_size, case.job, f"{folder}/run", store.port, case.pairs,
            timeout_seconds=3600,
        )  # fmt: skip


def slowest(per_rank: list[list[float]]) -> list[float]:
    """A step lasts as long as on its slowest rank."""
    return [max(step) for step in zip(*per_rank, strict=True)]


def cases(*, pairs: int, quick: bool) -> Iterator[Case]:
    """Two sizes at two world sizes, two micro-batches a step."""
    config = {"width": 128, "layers": 4, "heads": 4, "context": 64}
    demo = document(
        "concertina_trainer.examples.bytes_lm:BytesLM", config,
        samples=10**9, micro_batch_size=4, batch=8,
    )  # fmt: skip
    demo["spec"]["training"]["evaluateEverySamples"] = None
    for world_size in (2, 1):
        yield Case(name=f"demo W={world_size}", world_size=world_size, pairs=pairs, job=demo)
        if not quick:
            for m, tokens in ((1, 64), (2, 128)) if world_size == 2 else ((1, 64),):
                job = sized("25m", tokens=tokens, micro_batch_size=m, batch=2 * m)
                name = f"25M m={m} T={tokens} W={world_size}"
                yield Case(name=name, world_size=world_size, pairs=pairs, job=job)


def main() -> None:
    parser = arguments("a step of the whole loop against a plain FSDP2 loop")
    parser.add_argument("--pairs", type=int, help="pairs of steps in each case")
    options = parser.parse_args()
    pairs = options.pairs or (40 if options.quick else 300)
    spreads, facts = {}, {}
    for case in cases(pairs=pairs, quick=options.quick):
        ranks = compare(case)
        ours, rival = slowest([r.ours for r in ranks]), slowest([r.rival for r in ranks])
        spreads[case.name] = interval(ratios(rival, ours))
        probe = max(r.probe for r in ranks)
        difference = interval([own - theirs for theirs, own in zip(rival, ours, strict=True)])
        facts[case.name] = {
            "step_seconds": rounded(median(ours)),
            "rival_seconds": rounded(median(rival)),
            "difference_seconds": difference.to_json(),
            "probe_share": rounded(probe / median(ours)),
        }
        print(case.name, spreads[case.name].to_json(), facts[case.name], flush=True)
    share = max(fact["probe_share"] for fact in facts.values())
    print(line("step_overhead", spreads, pairs=pairs, probe_share=share, facts=facts))


if __name__ == "__main__":
    main()
