"""Reads what GPUs have used, from NVML, when somebody asks for the metrics.

The collector calls it in the thread of a scrape. NVML is asked through the package nvidia-ml-py,
which is optional; without it, without a driver, or for a GPU that does not count (before Volta,
parts of one), there is no value, and nothing else suffers.
"""

import importlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

logger = logging.getLogger(__name__)

Read = Callable[[str], float | None]
"""Joules that the GPU of this UUID has used since its driver was loaded; None: it does not say."""


class EnergyMeter:
    """Joules that GPUs have used since each was first asked about; never falls."""

    def __init__(self, read: Read | None = None) -> None:
        """`read` asks a device; NVML by default."""
        self._read = read or _Nvml().joules
        self._newest: dict[str, float] = {}
        self._total = 0.0
        self._turn = threading.Lock()

    def joules(self, devices: Iterable[str]) -> float | None:
        """Of all devices so far, `devices` being those in use now; None while none has told."""
        with self._turn:
            for device in set(devices):
                found = self._read(device)
                if found is None:
                    continue
                # A driver that was loaded anew counts from 0.
                self._total += max(0.0, found - self._newest.get(device, found))
                self._newest[device] = found
            return self._total if self._newest else None


class _Nvml:
    """NVML, loaded at the first question; never asked again once it has failed to load."""

    def __init__(self) -> None:
        self._library: Any = None
        self._absent = False

    def joules(self, device: str) -> float | None:
        library = self._loaded()
        if library is None:
            return None
        try:
            handle = library.nvmlDeviceGetHandleByUUID(device)
            return float(library.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except library.NVMLError as error:
            logger.debug("no energy of %s: %s", device, error)
            return None

    def _loaded(self) -> Any:
        if self._library is None and not self._absent:
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                self._absent = True
                return None
            try:
                library.nvmlInit()
            except library.NVMLError as error:
                logger.info("no energy of GPUs is told: %s", error)
                self._absent = True
                return None
            self._library = library
        return self._library
