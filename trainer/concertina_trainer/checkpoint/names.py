"""How a model's tensors are called in a state dict, and how in a training state. Pure.

Called by the sources of weights and by the exports. A training state has each tensor once and
without what wrappers add; a state dict has tied tensors under all their names, and lacks the
buffers that are not persistent.
"""

from collections.abc import Iterator

from torch import nn

from concertina_trainer.sharding.collect import buffer_names, parameter_names, plain_name


def state_names(model: nn.Module) -> dict[str, str]:
    """Key in the state dict -> name of the one tensor behind it."""
    tensors = {**buffer_names(model), **parameter_names(model)}
    names = {id(tensor): name for name, tensor in tensors.items()}
    return {
        plain_name(key): names[id(tensor)]
        for key, tensor in model.state_dict(keep_vars=True).items()
        if id(tensor) in names
    }


def tensor_names(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Name with and without wrappers of each parameter and buffer, tied ones once."""
    for name, _ in (*model.named_parameters(), *model.named_buffers()):
        yield name, plain_name(name)
