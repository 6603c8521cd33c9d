"""The command line reference: every command and option, from click itself. Called by pages.py."""

from collections.abc import Iterator
from typing import Final

import click

from concertina_operator.cli import main
from concertina_operator.cluster.serve import main as operator
from docs.reference.markdown import code, page, table

_INTRODUCTION: Final = """\
The package brings two commands: `concertina` for people, and `concertina-operator`, which is the operator
itself. Install it from a checkout, as it is not published: `pip install ".[local]"` for training on one
machine, `pip install ".[operator]"` for the commands of a cluster. These read `KUBECONFIG` or
`~/.kube/config`, as kubectl does.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed |
| 2 | the caller can mend it: a wrong manifest, task, name or argument |
| 130 | interrupted by Ctrl-C |"""


def commands_page() -> str:
    """The whole page."""
    group = click.Context(main, info_name="concertina")
    parts = [
        part
        for name in main.list_commands(group)
        for part in _command(_loaded(group, name), group, name=f"concertina {name}")
    ]
    parts += _command(operator, None, name="concertina-operator")
    return page("Command line", _INTRODUCTION, *parts)


def _loaded(group: click.Context, name: str) -> click.Command:
    """The command itself, also where the list of commands only knows its name."""
    _, command, _ = main.resolve_command(group, [name])
    assert command is not None, name
    return command


def _command(command: click.Command, group: click.Context | None, *, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name.rsplit(maxsplit=1)[-1], parent=group)
    usage = " ".join((name, *command.collect_usage_pieces(context)))
    yield f"## {name}"
    yield f"```text\n{usage}\n```"
    yield "\n".join(line.strip() for line in (command.help or "").splitlines()).strip()
    options = [row for one in command.get_params(context) if (row := _option(one, context))]
    yield table(("option", "meaning"), options)


def _option(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """How an option is written and its help; None for an argument, which the usage shows."""
    record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
    return (code(record[0]), record[1]) if record else None
