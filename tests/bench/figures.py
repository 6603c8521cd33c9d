"""What a bench prints: ratios with their spread, and one line of JSON at the end.

A ratio is always the rival's time over ours, so larger is better. Pure but for `report`.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

INTERVAL_DRAWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median and what it may vary between."""

    median: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """[median, low, high], rounded to what a reader can use."""
        return [rounded(self.median), rounded(self.low), rounded(self.high)]


def ranged(values: Sequence[float]) -> Spread:
    """The median of a few values between the smallest and the largest."""
    return Spread(median=median(values), low=min(values), high=max(values))


def interval(values: Sequence[float]) -> Spread:
    """The median of many values with its 95 % bootstrap interval."""
    draw = random.Random(0)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(INTERVAL_DRAWS))
    tail = INTERVAL_DRAWS // 40
    return Spread(median=median(values), low=medians[tail], high=medians[-1 - tail])


def ratios(rival: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Ratio of each pair that was measured together."""
    return [theirs / own for theirs, own in zip(rival, ours, strict=True)]


def line(bench: str, cases: Mapping[str, Spread], **more: Any) -> str:
    """The line of JSON: the case with the smallest ratio, and all others beside it."""
    worst = min(cases, key=lambda name: cases[name].median)
    shown = cases[worst].to_json()
    document = {
        "bench": bench,
        **dict(zip(("ratio", "low", "high"), shown, strict=True)),
        "case": worst,
        "cases": {name: spread.to_json() for name, spread in cases.items()},
        **more,
    }
    return json.dumps(document, allow_nan=False)


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all benches share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="under three minutes, to see that it runs"
    )
    return parser
