"""Numbers as Grafana writes them, for the units that the dashboards use. Pure."""

import math
from collections.abc import Sequence

DECIMAL = ("", " K", " Mil", " Bil")
BINARY = (" B", " KiB", " MiB", " GiB", " TiB")
POWER = ("mW", "W", "kW", "MW")
TIMES = ((60.0, "s"), (60.0, "min"), (24.0, "hour"), (7.0, "day"))


def written(value: float, unit: str, *, decimals: int | None = None) -> str:
    """The value with its unit."""
    if math.isnan(value):
        return "NaN"
    match unit:
        case "percentunit":
            return f"{_digits(100 * value, decimals)}%"
        case "s":
            return _duration(value, decimals)
        case "bytes":
            return _scaled(value, BINARY, 1024.0, decimals)
        case "watt":
            return f"{_digits(value, decimals)} W"
        case "short":
            return _scaled(value, DECIMAL, 1000.0, decimals)
        case "ops":
            return f"{_digits(value, decimals)} ops/s"
        case "reqps":
            return f"{_digits(value, decimals)} req/s"
        case "sci":
            return "0" if value == 0 else f"{value:.3g}"
        case "none" | "":
            return _digits(value, decimals)
    raise AssertionError(f"the pictures do not know the unit {unit}")


def _duration(seconds: float, decimals: int | None) -> str:
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size < 1e-3:
        return f"{_digits(seconds * 1e6, decimals)} µs"
    if size < 1:
        return f"{_digits(seconds * 1e3, decimals)} ms"
    for number, (limit, name) in enumerate(TIMES):
        if size < limit or number == len(TIMES) - 1:
            plural = "s" if name in ("hour", "day") and size != 1 else ""
            return f"{_digits(seconds, decimals)} {name}{plural}"
        size, seconds = size / limit, seconds / limit
    raise AssertionError("the last unit has no limit")


def _scaled(value: float, names: Sequence[str], base: float, decimals: int | None) -> str:
    size = 0
    while abs(value) >= base and size < len(names) - 1:
        value, size = value / base, size + 1
    return f"{_digits(value, decimals)}{names[size]}"


def _digits(value: float, decimals: int | None) -> str:
    """Without decimals that were asked for, three digits that mean something."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
