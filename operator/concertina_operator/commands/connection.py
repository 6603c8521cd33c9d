"""Talks to the cluster of the current kubeconfig, for commands that ask a few things and end.

A thin layer over the official `kubernetes` package, which reads kubeconfigs, exec plugins and
certificates; it is imported with the first connection. Answers are plain mappings. The operator
has a client of its own (cluster/client.py), which is asynchronous and made for thousands of calls.
"""

import codecs
import importlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import yaml

from concertina_api.errors import ConcertinaError, MissingPackage
from concertina_operator.cluster.credentials import NoCluster

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 30.0
_LONGEST_ANSWER: Final = 500
_BUSY: Final = 429
"""Also the answer for a kind that was defined a moment ago."""
_ATTEMPTS: Final = 10
_PAUSE_SECONDS: Final = 1.0


class ClusterRefusal(ConcertinaError):
    """The API server said no: a name that does not exist, missing rights, an invalid object."""

    def __init__(self, message: str, *, status: int, reason: str = "") -> None:
        """`reason` is the server's word, such as NotFound; empty when the whole kind is unknown."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        # 2 for what the caller can mend, 1 for trouble of the server.
        self.exit_code = 2 if status < 500 and status != _BUSY else 1


class Cluster:
    """One connection; see `connect`."""

    def __init__(self, client: Any, *, namespace: str) -> None:
        """`client` is a kubernetes.dynamic.DynamicClient, of which only `request` is used."""
        self._client = client
        self.namespace = namespace

    def call(
        self,
        verb: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> dict[str, Any]:
        """The answer to one request; a busy server is asked again a few times.

        Raises ClusterRefusal, or NoCluster when no answer comes.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._ask(verb, path, body, params, content_type)
            except ClusterRefusal as error:
                if error.status != _BUSY:
                    raise
            time.sleep(_PAUSE_SECONDS)
        return self._ask(verb, path, body, params, content_type)

    def items(
        self, path: str, *, params: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], ...]:
        """The objects of a list. Raises as `call` does."""
        return tuple(self.call("GET", path, params=params).get("items") or ())

    def lines(self, path: str, *, params: Mapping[str, str]) -> Iterator[str]:
        """The lines of a text as they come; for as long as the server keeps it open."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        begun = ""
        with _told():
            response = self._client.request(
                "GET",
                path,
                query_params=list(params.items()),
                serialize=False,
                _request_timeout=(_CONNECT_SECONDS, None),
            )
            try:
                for chunk in response.stream():
                    *whole, begun = (begun + decoder.decode(chunk)).split("\n")
                    yield from whole
            finally:
                response.close()
        if begun:
            yield begun

    def _ask(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, str] | None,
        content_type: str,
    ) -> dict[str, Any]:
        # The package knows how to write JSON alone; every JSON document is YAML.
        sent = json.dumps(body) if content_type == APPLY_PATCH else body
        with _told():
            answer = self._client.request(
                verb,
                path,
                body=sent,
                query_params=list((params or {}).items()),
                content_type=content_type,
                serializer=lambda _client, content: content,
                _request_timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
            )
        return answer if isinstance(answer, dict) else {}


def connect(*, context: str | None = None, namespace: str | None = None) -> Cluster:
    """A connection by KUBECONFIG or ~/.kube/config; nothing is asked yet.

    Without a context it is the current one, without a namespace the context's. Raises NoCluster.
    """
    try:
        config: Any = importlib.import_module("kubernetes.config")
        client: Any = importlib.import_module("kubernetes.client")
        dynamic: Any = importlib.import_module("kubernetes.dynamic")
    except ModuleNotFoundError as error:
        raise MissingPackage(
            error.name or "kubernetes", extra="operator", purpose="talking to a cluster"
        ) from error
    path = os.environ.get("KUBECONFIG") or None
    settings = client.Configuration()
    settings.retries = False
    try:
        config.load_kube_config(
            config_file=path, context=context, client_configuration=settings, persist_config=False
        )
        contexts, current = config.list_kube_config_contexts(config_file=path)
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        raise NoCluster(f"no cluster: {error} ({path or '~/.kube/config'})") from error
    chosen = next((entry for entry in contexts if entry["name"] == context), current)
    default = chosen["context"].get("namespace") or "default"
    # Only paths are asked for that are known: nothing is to be discovered.
    connection = dynamic.DynamicClient(client.ApiClient(settings), discoverer=lambda *_: None)
    return Cluster(connection, namespace=namespace or default)


@contextmanager
def _told() -> Iterator[None]:
    """Turns the errors of the package into ours, in the server's words."""
    exceptions: Any = importlib.import_module("kubernetes.client.exceptions")
    transport: Any = importlib.import_module("urllib3.exceptions")
    try:
        yield
    except exceptions.ApiException as error:
        if not error.status:
            raise NoCluster(f"no cluster: {error.reason}") from error
        raise _refusal(int(error.status), error.reason, error.body) from error
    except transport.HTTPError as error:
        raise NoCluster(f"no cluster: the API server does not answer: {error}") from error


def _refusal(status: int, phrase: object, body: object) -> ClusterRefusal:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if isinstance(told, dict) and told.get("kind") == "Status":
        message, reason = str(told.get("message", "")), str(told.get("reason", ""))
        has_name = bool((told.get("details") or {}).get("name"))
        return ClusterRefusal(
            message[:_LONGEST_ANSWER] or str(phrase),
            status=status,
            reason=reason if status != 404 or has_name else "",
        )
    return ClusterRefusal(text.strip()[:_LONGEST_ANSWER] or str(phrase), status=status)
