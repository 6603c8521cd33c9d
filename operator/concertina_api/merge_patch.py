"""Says what to send to the API server to turn one object into another: a JSON merge patch.

The operator writes statuses with it, agents their reports. Pure: no I/O, no clock.
"""

from collections.abc import Mapping
from typing import Any


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The patch (RFC 7386) that turns `before` into `after`; empty when they agree.

    A null in it removes a field, so `after` holds none.
    """
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if name in before and old == value:
            continue
        is_nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        patch[name] = merge_patch(old or {}, value) if is_nested else value
    return patch
