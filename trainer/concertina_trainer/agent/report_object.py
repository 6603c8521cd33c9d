"""The report as an object of the API server: where an agent on Kubernetes reports.

`send` never waits: a thread writes the newest report, and while the server is away or refuses, it
goes on trying, with whatever is the newest by then. The object belongs to the pod, and what it
holds is compared with what it should hold before each write: an object that was deleted, or that
an earlier pod of the same name has left, becomes right by itself.
"""

import logging
import threading
from collections.abc import Mapping
from typing import Any

from concertina_api.merge_patch import merge_patch
from concertina_api.v1alpha1 import Report, TrainingReport
from concertina_trainer.agent.api_server import MERGE_PATCH, ApiError, ApiServer
from concertina_trainer.agent.publisher import CLUSTER_PROGRESS_SECONDS
from concertina_trainer.agent.retry import Retry

logger = logging.getLogger(__name__)

PLURAL = "trainingreports"
REVIEW_SECONDS = 300.0
"""A report that nobody changed is compared with the server's after this time."""


class ReportObject:
    """A ReportSink (see report.py) that writes the object named like the pod."""

    progress_seconds = CLUSTER_PROGRESS_SECONDS

    def __init__(
        self, api: ApiServer, *, retry: Retry | None = None, review_seconds: float = REVIEW_SECONDS
    ) -> None:
        self._api = api
        self._retry = retry or Retry()
        self._review_seconds = review_seconds
        self._changed = threading.Condition()
        self._wanted: Report | None = None
        self._written: Report | None = None
        self._stored: Mapping[str, Any] | None = None
        """The object as the server last gave it; None: not known."""
        self._trouble = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="concertina-report", daemon=True)
        self._thread.start()

    def send(self, report: Report) -> None:
        """See ReportSink."""
        with self._changed:
            self._wanted = report
            self._changed.notify_all()

    def settled(self, *, within_seconds: float) -> bool:
        """See ReportSink."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._written is self._wanted, timeout=within_seconds
            )

    def close(self) -> None:
        """Write no more; what is under way is ended first."""
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (report := self._next()) is not None:
            try:
                self._write(report)
            except Exception as error:  # noqa: BLE001 - the outermost place of this thread
                at_least = error.retry_after_seconds if isinstance(error, ApiError) else 0.0
                self._stored = None
                self._failed(error)
                self._ended.wait(self._retry.delay_seconds(at_least=at_least))
                continue
            self._succeeded()
            with self._changed:
                self._written = report
                self._changed.notify_all()

    def _next(self) -> Report | None:
        """The report to write now, as soon as there is one; None at the end."""
        with self._changed:
            while True:
                changed = self._changed.wait_for(
                    lambda: self._ended.is_set() or self._written is not self._wanted,
                    timeout=self._review_seconds,
                )
                if self._ended.is_set():
                    return None
                if not changed:
                    self._stored = None
                if self._wanted is not None:
                    return self._wanted

    def _write(self, report: Report) -> None:
        """Make the object say `report`. Raises ApiError."""
        path = self._api.path(PLURAL, report.pod)
        wanted = _document(report)
        if self._stored is None:
            self._stored = self._read(path, report.pod)
        if self._stored is None:
            self._stored = self._api.call("POST", self._api.path(PLURAL), body=wanted)
            return
        patch = merge_patch(_own_part(self._stored), _own_part(wanted))
        if patch:
            self._stored = self._api.call("PATCH", path, body=patch, content_type=MERGE_PATCH)

    def _read(self, path: str, name: str) -> Mapping[str, Any] | None:
        try:
            return self._api.call("GET", path)
        except ApiError as error:
            if error.says_missing(name):
                return None
            raise

    def _failed(self, error: Exception) -> None:
        if str(error) != self._trouble:
            logger.warning(
                "the report is not written, trying again: %s",
                error,
                exc_info=not isinstance(error, ApiError),
            )
        self._trouble = str(error)

    def _succeeded(self) -> None:
        self._retry.succeeded()
        if self._trouble:
            logger.info("the report is written again")
        self._trouble = ""


def _document(report: Report) -> dict[str, Any]:
    """The object to create; the pod owns it, so that it goes with the pod."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": report.pod, "uid": report.uid}
    document = TrainingReport(spec=report).model_dump(mode="json", by_alias=True, exclude_none=True)
    return document | {"metadata": {"name": report.pod, "ownerReferences": [owner]}}


def _own_part(document: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent says of the object; the rest is the server's."""
    owners = document.get("metadata", {}).get("ownerReferences", [])
    return {"metadata": {"ownerReferences": owners}, "spec": document.get("spec", {})}
