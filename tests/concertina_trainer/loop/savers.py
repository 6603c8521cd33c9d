"""What tests of savers share: who trains, and a storage that does not answer."""

import os

from concertina_api.v1alpha1 import Member, Membership
from concertina_trainer.checkpoint.format import origin


def membership(*, pods):
    members = tuple(
        Member(pod=f"tiny-{index}", uid=f"u{index}", incarnation="1", host="127.0.0.1", port=1)
        for index in range(pods)
    )
    return Membership(round=1, members=members)


def stuck(saver, step):
    """A storage that does not answer: a pipe, from which nobody reads, where a file will be."""
    folder = saver.storage.path / f"step-{step:09d}-r1-{origin(membership(pods=1).workers())}"
    folder.mkdir(parents=True)
    pipe = folder / ".rank-00000.safetensors"
    os.mkfifo(pipe)
    return pipe
