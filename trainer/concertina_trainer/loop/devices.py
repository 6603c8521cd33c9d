"""What a worker's memory and device are, for status and metrics. Called by the reporter.

All of it is known on the host: torch's allocator counts what it gives out, and nothing here waits
for the device.
"""

import resource
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of this process."""

    peak_bytes: int
    """The most that tensors took so far on the GPU; without one, the most that was resident."""
    device_bytes: int | None
    """What torch holds on the GPU now, cached blocks included; None without one."""


def memory(device: torch.device) -> Memory:
    """Memory of this process, whose tensors are on `device`."""
    if device.type != "cuda":
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Memory(peak_bytes=resident, device_bytes=None)
    counts = torch.cuda.memory_stats(device)
    return Memory(
        peak_bytes=counts.get("allocated_bytes.all.peak", 0),
        device_bytes=counts.get("reserved_bytes.all.current", 0),
    )


def device_uuid(device: torch.device) -> str | None:
    """The GPU's name for NVML; None without one."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
