"""Decides the learning rate of a step: a schedule over samples times a factor for the batch.

Pure: no state, so a resize, a resume or a changed batch needs nothing but the sample number. The
training loop calls it before each optimizer step. The square root suits Adam-like optimizers,
the linear law SGD (Granziol et al. 2020, arXiv 2006.09092; Malladi et al. 2022).
"""

import math
from collections.abc import Callable, Mapping

from concertina_api.v1alpha1 import BatchLaw, LearningRate, ScheduleName

WSD_DECAY_FRACTION = 0.2
"""Share of the run that a WSD schedule decays over when the manifest does not say."""


def learning_rate(
    spec: LearningRate, *, samples: int, batch: int, total_samples: int, initial_batch: int
) -> float:
    """Learning rate of the step that consumes samples [samples, samples + batch)."""
    rising = _warmup(spec, samples + batch)
    shape = _SHAPES[spec.schedule](spec, samples, total_samples) if rising >= 1 else rising
    return spec.peak * shape * batch_factor(spec, batch=batch, initial_batch=initial_batch)


def batch_factor(spec: LearningRate, *, batch: int, initial_batch: int) -> float:
    """Factor of the batch law: 1 at the reference batch, at most `max_factor`."""
    ratio = batch / (spec.reference_batch or initial_batch)
    return min(spec.max_factor, _LAWS[spec.batch_law](ratio))


def _warmup(spec: LearningRate, samples_after: int) -> float:
    """Linear rise, taken at the end of the step so that the first step is not lost."""
    return samples_after / spec.warmup_samples if samples_after < spec.warmup_samples else 1.0


def _cosine(spec: LearningRate, samples: int, total_samples: int) -> float:
    progress = _progress(samples, spec.warmup_samples, total_samples)
    return _between(spec.final_fraction, 0.5 * (1 + math.cos(math.pi * progress)))


def _linear(spec: LearningRate, samples: int, total_samples: int) -> float:
    return _between(spec.final_fraction, 1 - _progress(samples, spec.warmup_samples, total_samples))


def _wsd(spec: LearningRate, samples: int, total_samples: int) -> float:
    """Warm-up, stable, decay: constant, then a linear decay to the end of the run."""
    decay = spec.decay_samples or WSD_DECAY_FRACTION * total_samples
    return _between(
        spec.final_fraction, 1 - _progress(samples, total_samples - decay, total_samples)
    )


def _constant(_spec: LearningRate, _samples: int, _total_samples: int) -> float:
    return 1.0


def _progress(samples: int, start: float, end: float) -> float:
    """How far `samples` is from `start` to `end`, within 0 and 1."""
    return min(1.0, max(0.0, (samples - start) / (end - start))) if end > start else 1.0


def _between(final_fraction: float, share: float) -> float:
    return final_fraction + (1 - final_fraction) * share


_SHAPES: Mapping[ScheduleName, Callable[[LearningRate, int, int], float]] = {
    ScheduleName.COSINE: _cosine,
    ScheduleName.LINEAR: _linear,
    ScheduleName.WSD: _wsd,
    ScheduleName.CONSTANT: _constant,
}
_LAWS: Mapping[BatchLaw, Callable[[float], float]] = {
    BatchLaw.NONE: lambda ratio: 1.0,  # noqa: ARG005 - the same signature for every law
    BatchLaw.LINEAR: lambda ratio: ratio,
    BatchLaw.SQUARE_ROOT: math.sqrt,
}
