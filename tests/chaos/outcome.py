"""What became of a run under chaos, as a row of a table. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.arena import Hit
from tests.chaos.invariants import Evidence, surviving


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A run, what was done to it, and what it violates."""

    seconds: float
    hits: Sequence[Hit]
    evidence: Evidence
    violations: Sequence[str]

    def row(self) -> str:
        """One line, and one more for each violation."""
        rows = self.evidence.rows
        discarded = len(rows) - len(surviving(rows))
        rounds = max((row["round"] for row in rows), default=0)
        done = "; ".join(f"{hit.strike} {hit.what}" for hit in self.hits)
        verdict = "VIOLATED" if self.violations else "ok"
        head = (
            f"{verdict:8} {self.seconds:5.0f} s {rounds:3} rounds {discarded:4} discarded  {done}"
        )
        return "\n".join([head, *(f"    {violation}" for violation in self.violations)])
