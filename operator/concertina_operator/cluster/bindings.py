"""Gives the pods of a namespace the rights of a trainer, before the first of them is created.

Used by apply.py where the operator serves all namespaces; an operator of one namespace finds the
binding installed. The binding is fixed (rights.py), and an existing one is left as it is. One that
was deleted is made again with the next pods.
"""

from datetime import datetime, timedelta
from typing import Final

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import Conflict, Refused
from concertina_operator.cluster.rights import trainer_binding

_TRUSTED: Final = timedelta(seconds=60)
"""How long a binding that was there is taken to be there."""


class TrainerBindings:
    """Namespaces in which trainers have their rights."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._bound_at: dict[str, datetime] = {}

    async def ensure(self, namespace: str, *, now: datetime) -> str:
        """Creates the binding unless it is there; the server's words when it would not have it.

        Somebody else may have bound the role, so a refusal is no reason to create no pods. Raises
        ApiError when the server could not be asked.
        """
        bound_at = self._bound_at.get(namespace)
        if bound_at is not None and now - bound_at < _TRUSTED:
            return ""
        path = paths.role_bindings(namespace)
        try:
            await self._api.call("POST", path, body=trainer_binding(namespace))
        except Conflict:
            pass  # it exists
        except Refused as error:
            return error.message
        self._bound_at[namespace] = now
        return ""

    def forget(self, namespace: str) -> None:
        """A job of the namespace is gone, and the namespace may be."""
        self._bound_at.pop(namespace, None)
