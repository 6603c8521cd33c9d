"""Errors that callers tell apart by what they can do about them.

ConcertinaError
|-- InvalidJob            the user must edit the manifest or the task        (exit code 2)
|-- MissingPackage        the user must install an extra                     (exit code 2)
|-- CheckpointInvalid     this checkpoint cannot be used; another one may
|-- RoundFailed           the round broke; wait for the next one
`-- TrainingFailed        training cannot go on                              (exit code 1)
    |-- SampleFailed      the task could not make the samples that it names
    |-- StorageUnavailable  checkpoints cannot be read or saved, and no code is to blame
    `-- Diverged          too many steps in a row had to be skipped
"""


class ConcertinaError(Exception):
    """Root of every error that Concertina raises on purpose."""

    exit_code = 1


class InvalidJob(ConcertinaError):
    """The manifest or the task is wrong, and only its author can mend it."""

    exit_code = 2


class MissingPackage(ConcertinaError):
    """An optional package is needed; the message names the extra that brings it."""

    exit_code = 2

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; "
            f"install it with: pip install 'concertina-training[{extra}]'"
        )


class CheckpointInvalid(ConcertinaError):
    """A checkpoint is truncated, mixed, damaged or foreign."""


class RoundFailed(ConcertinaError):
    """A round could not be opened, exchanged or kept; state is as it was before."""


class TrainingFailed(ConcertinaError):
    """Training cannot continue, for a reason that the message gives."""


class SampleFailed(TrainingFailed):
    """The task's data set or `collate` failed, or the process in which it ran."""

    def __init__(self, message: str, *, first_sample: int, num_samples: int = 1) -> None:
        super().__init__(message)
        self.first_sample = first_sample
        self.num_samples = num_samples


class StorageUnavailable(TrainingFailed):
    """The storage of the checkpoints does not answer, or fails; it may be well another time."""


class Diverged(TrainingFailed):
    """Too many steps in a row had to be skipped: loss or gradient is not finite, or too large."""
