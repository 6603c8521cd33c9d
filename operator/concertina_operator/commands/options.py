"""Options that all cluster commands share, and how they print."""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Output(StrEnum):
    """Who reads what a command prints."""

    TEXT = "text"
    JSON = "json"


context_option = click.option("--context", help="Context of the kubeconfig. Default: the current.")
namespace_option = click.option(
    "--namespace", "-n", help="Namespace of the job. Default: that of the context."
)
output_option = click.option(
    "--output",
    "-o",
    type=click.Choice([output.value for output in Output]),
    default=Output.TEXT.value,
    callback=lambda _context, _parameter, value: Output(value),
    help="For people or for programs.",
)


def job_options(command: Command) -> Command:
    """--context, --namespace and --output."""
    return context_option(namespace_option(output_option(command)))


def show(output: Output, *, text: Iterable[str], document: Any) -> None:
    """Prints the lines, or the document as JSON."""
    if output is Output.JSON:
        click.echo(json.dumps(document, indent=2, default=_plain))
        return
    for line in text:
        click.echo(line)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
