"""Gives the pods of a namespace the rights of a trainer, before the first of them is created.

Used by apply.py where the operator serves all namespaces; an operator of one namespace finds the
binding installed. The binding is fixed (rights.py), and an existing one is left as it is.
"""

import logging

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api, Conflict, Refused
from concertina_operator.cluster.rights import trainer_binding

_log = logging.getLogger(__name__)


class TrainerBindings:
    """Namespaces in which trainers have their rights."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._bound: set[str] = set()

    async def ensure(self, namespace: str) -> None:
        """Creates the binding unless it is known to be there. Raises ApiError."""
        if namespace in self._bound:
            return
        path = paths.role_bindings(namespace)
        try:
            await self._api.call("POST", path, body=trainer_binding(namespace))
        except Conflict:
            pass  # it exists
        except Refused as error:
            # Somebody else may have bound the role, so the pods are created. An API server that
            # has just started refuses what it allows a moment later: the next pods try again.
            _log.warning("trainers of %s have no rights from here: %s", namespace, error.message)
            return
        self._bound.add(namespace)

    def forget(self, namespace: str) -> None:
        """A job of the namespace is gone, and the namespace may be."""
        self._bound.discard(namespace)
