"""Imported by the fork server before it forks: what every worker of a test would import again.

Building on the meta device imports torch's decompositions, which takes longer than torch itself.
"""

import torch
import torch.distributed.fsdp
import torch.testing._internal.distributed.fake_pg

import concertina_trainer.worker
from tests.models import TinyLM
from tests.tasks import TinyTask

torch.set_num_threads(1)
with torch.device("meta"):
    TinyLM()
__all__ = ["TinyTask", "concertina_trainer", "torch"]
