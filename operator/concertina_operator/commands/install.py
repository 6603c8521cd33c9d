"""`concertina install` and `uninstall`: the operator and what it needs, in a cluster.

Objects are written by server-side apply, so that both commands can be repeated, and a newer
version is installed over an older one. A namespace is somebody's: it is made where there is none,
and otherwise neither changed nor deleted.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import click
import yaml

from concertina_api.errors import ConcertinaError
from concertina_operator.cluster.install import (
    NAMESPACE,
    install_objects,
    operator_objects,
    trainer_objects,
)
from concertina_operator.cluster.notices import taints_fault
from concertina_operator.cluster.rights import TRAINER, node_rights
from concertina_operator.commands.connection import APPLY_PATCH, Cluster, ClusterRefusal, connect
from concertina_operator.commands.objects import Document, content_of, hindrance, label, path_of
from concertina_operator.commands.options import Output, context_option, output_option, show

_APPLY: Final = {"fieldManager": "concertina", "force": "true", "fieldValidation": "Strict"}
_RBAC: Final = "rbac.authorization.k8s.io/v1"
_BINDINGS: Final = f"/apis/{_RBAC}/rolebindings"
_RELEASE: Final = ("meta.helm.sh/release-namespace", "meta.helm.sh/release-name")
"""Annotations by which Helm says whose an object is."""
_INTERVAL_SECONDS: Final = 0.5


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice: anchors are not for people."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


class InstalledByHelm(ConcertinaError):
    """The operator is a release of Helm, which would not know of what is written over it."""

    exit_code = 2


class NotReady(ConcertinaError):
    """The cluster took the objects, but they do not do their work in time."""


_namespace_option = click.option(
    "--namespace",
    "-n",
    default=NAMESPACE,
    show_default=True,
    help="Where the operator runs.",
)
_jobs_in_option = click.option(
    "--jobs-in", help="Serve the jobs of this namespace alone. Default: of all namespaces."
)
_timeout_option = click.option(
    "--timeout",
    "timeout_seconds",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Seconds to wait until all is done; 0 does not wait.",
)


@click.command()
@_namespace_option
@_jobs_in_option
@click.option("--image", required=True, help="Container image of the operator.")
@click.option(
    "--watch-nodes",
    is_flag=True,
    help="Let the operator read nodes, so that pods leave those that are about to be taken away.",
)
@click.option(
    "--notice-taint",
    "notice_taints",
    multiple=True,
    metavar="KEY",
    help="Key of one more taint that says so; may be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Print the objects and change nothing.")
@_timeout_option
@context_option
@output_option
def install(
    *,
    namespace: str,
    jobs_in: str | None,
    image: str,
    watch_nodes: bool,
    notice_taints: tuple[str, ...],
    dry_run: bool,
    timeout_seconds: int,
    context: str | None,
    output: Output,
) -> None:
    """Install the operator and its resources, or bring them up to date."""
    if fault := taints_fault(notice_taints):
        raise click.UsageError(f"--notice-taint: {fault}")
    if notice_taints and not watch_nodes:
        raise click.UsageError("--notice-taint needs --watch-nodes")
    objects = install_objects(
        namespace=namespace,
        image=image,
        jobs_in=jobs_in,
        notice_taints=notice_taints if watch_nodes else None,
    )
    if dry_run:
        text = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False)
        show(output, text=text.splitlines(), document=objects)
        return
    cluster = connect(context=context)
    refuse_release(cluster, operator_objects(namespace=namespace, image=image, jobs_in=jobs_in))
    outcomes = {
        label(entry): (
            create_object(cluster, entry) if _is_namespace(entry) else apply_object(cluster, entry)
        )
        for entry in objects
    }
    if not watch_nodes:
        retired = node_rights(namespace=namespace, jobs_in=jobs_in)
        outcomes |= {
            label(entry): outcome
            for entry in retired
            if (outcome := delete_object(cluster, entry)) != "absent"
        }
    if timeout_seconds:
        wait_until_ready(cluster, objects, timeout_seconds=timeout_seconds)
    show(output, text=_sentences(outcomes), document=_documents(outcomes))


@click.command()
@_namespace_option
@_jobs_in_option
@click.option(
    "--delete-jobs", is_flag=True, help="Delete the resource definitions, and every job with them."
)
@click.option("--yes", is_flag=True, help="Do not ask before jobs are deleted.")
@_timeout_option
@context_option
@output_option
def uninstall(
    *,
    namespace: str,
    jobs_in: str | None,
    delete_jobs: bool,
    yes: bool,
    timeout_seconds: int,
    context: str | None,
    output: Output,
) -> None:
    """Remove the operator. Jobs stay and train on, unless --delete-jobs is given.

    The namespace of the operator stays too, since it may hold what others put there.
    """
    if delete_jobs and not yes:
        click.confirm("Every job of every namespace will be deleted. Go on?", abort=True, err=True)
    everything = install_objects(
        namespace=namespace, image="none", jobs_in=jobs_in, notice_taints=()
    )
    needed = trainer_objects(jobs_in=jobs_in)
    cluster = connect(context=context)
    spared = [
        entry
        for entry in everything
        if _is_namespace(entry) or (entry in needed and not delete_jobs)
    ]
    doomed = [entry for entry in reversed(everything) if entry not in spared]
    if delete_jobs:
        doomed += _trainer_bindings(cluster)
    outcomes = {label(entry): delete_object(cluster, entry) for entry in doomed}
    if timeout_seconds:
        _wait(lambda: _remaining(cluster, doomed), timeout_seconds=timeout_seconds)
    kept = {label(entry): "kept" if _found(cluster, entry) else "absent" for entry in spared}
    show(output, text=_sentences(outcomes | kept), document=_documents(outcomes | kept))


def refuse_release(cluster: Cluster, objects: Iterable[Document]) -> None:
    """Raises InstalledByHelm where one of the objects is part of a release.

    What jobs need outlasts a release, and still bears its name: that may be written over.
    """
    for document in objects:
        found = _found(cluster, document) or {}
        annotations = found.get("metadata", {}).get("annotations", {})
        if release := "/".join(annotations.get(name, "") for name in _RELEASE).strip("/"):
            raise InstalledByHelm(
                f"{label(document)} is of release {release} of Helm:"
                " bring it up to date by helm upgrade, or take it away by helm uninstall first"
            )


def create_object(cluster: Cluster, document: Document) -> str:
    """Creates the object unless there is one, which is left as it is; says which it was."""
    if _found(cluster, document) is not None:
        return "unchanged"
    cluster.call("POST", path_of(document).rpartition("/")[0], body=document)
    return "created"


def apply_object(cluster: Cluster, document: Document) -> str:
    """Creates the object or brings it up to date; says which it was."""
    before = _found(cluster, document)
    answer = cluster.call(
        "PATCH", path_of(document), body=document, params=_APPLY, content_type=APPLY_PATCH
    )
    if before is None:
        return "created"
    return "unchanged" if content_of(before) == content_of(answer) else "changed"


def delete_object(cluster: Cluster, document: Document) -> str:
    """Deletes the object; says whether there was one."""
    try:
        cluster.call("DELETE", path_of(document), params={"propagationPolicy": "Background"})
    except ClusterRefusal as error:
        if error.status == 404:
            return "absent"
        raise
    return "deleted"


def wait_until_ready(
    cluster: Cluster, objects: Sequence[Document], *, timeout_seconds: float
) -> None:
    """Waits until all of them do their work. Raises NotReady."""

    def open_ends() -> Iterator[str]:
        for document in objects:
            found = cluster.call("GET", path_of(document))
            if (why := hindrance(found)) is not None:
                yield f"{label(document)}: {why}"

    _wait(open_ends, timeout_seconds=timeout_seconds)


def _is_namespace(document: Document) -> bool:
    return bool(document["kind"] == "Namespace")


def _trainer_bindings(cluster: Cluster) -> list[dict[str, Any]]:
    """The rights that the operator gave to trainers where it found jobs."""
    found = cluster.items(_BINDINGS, params={"fieldSelector": f"metadata.name={TRAINER}"})
    # The objects of a list do not say what they are.
    return [{**entry, "apiVersion": _RBAC, "kind": "RoleBinding"} for entry in found]


def _remaining(cluster: Cluster, objects: Sequence[Document]) -> Iterator[str]:
    for document in objects:
        if _found(cluster, document) is not None:
            yield f"{label(document)}: still there"


def _wait(open_ends: Callable[[], Iterable[str]], *, timeout_seconds: float) -> None:
    """Asks until nothing is open. Raises NotReady with what is open at the end."""
    deadline = time.monotonic() + timeout_seconds
    while left := list(open_ends()):
        if time.monotonic() >= deadline:
            raise NotReady(f"not done within {timeout_seconds:g} s:\n  " + "\n  ".join(left))
        time.sleep(_INTERVAL_SECONDS)


def _found(cluster: Cluster, document: Document) -> Document | None:
    """The object as the cluster has it; None when there is none."""
    try:
        return cluster.call("GET", path_of(document))
    except ClusterRefusal as error:
        if error.status == 404:
            return None
        raise


def _sentences(outcomes: dict[str, str]) -> list[str]:
    return [f"{name} {outcome}" for name, outcome in outcomes.items()]


def _documents(outcomes: dict[str, str]) -> list[dict[str, Any]]:
    return [{"object": name, "outcome": outcome} for name, outcome in outcomes.items()]
