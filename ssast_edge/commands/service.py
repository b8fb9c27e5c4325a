"""`ssast-edge service`: keep `listen` running, by systemd."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ssast_edge.systemd.service import Outcome

_KEPT = {"ignore_unknown_options": True, "allow_interspersed_args": False}

_name_option = click.option(
    "--name", default="ssast-edge", show_default=True, help="Of the service; one a microphone."
)
_system_option = click.option(
    "--system", "is_system", is_flag=True, help="The machine's service, not this user's."
)


@click.group()
def service() -> None:
    """Keep `listen` running in the background, by systemd."""


@service.command(context_settings=_KEPT)
@_name_option
@_system_option
@click.option(
    "--user",
    default="ssast-edge",
    show_default=True,
    help="With --system: who runs it; best one that does nothing else.",
)
@click.option("--print", "is_print", is_flag=True, help="Show the unit and install nothing.")
@click.option("--no-start", is_flag=True, help="Start it at the next boot or login only.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF LISTEN]...")
def install(
    name: str, is_system: bool, user: str, is_print: bool, no_start: bool, options: tuple[str, ...]
) -> None:
    """Write the systemd unit, enable it and start it.

    The options after these are those of `listen`: --bundle, --device, --keyword and so on.
    """
    from ssast_edge.systemd.service import device_groups, install, listen_command
    from ssast_edge.systemd.unit import Unit

    unit = Unit(
        command=listen_command(_listen_arguments(list(options))),
        name=name,
        user=user if is_system else None,
        groups=device_groups() if is_system else (),
    )
    if is_print:
        click.echo(unit.text, nl=False)
    else:
        _tell(install(unit, start=not no_start))


@service.command()
@_name_option
@_system_option
def uninstall(name: str, is_system: bool) -> None:
    """Stop the service and remove its unit."""
    from ssast_edge.systemd.service import uninstall

    _tell(uninstall(name, is_system=is_system))


@service.command()
@_name_option
@_system_option
def status(name: str, is_system: bool) -> None:
    """Say whether the service listens; status 0 when it does."""
    from ssast_edge.systemd.service import state

    found = state(name, is_system=is_system)
    click.echo(f"unit      {found['file']}")
    if not found["ActiveState"]:
        raise click.ClickException("systemd does not run here: the service cannot either")
    click.echo(f"state     {found['ActiveState']} ({found['SubState']}), {found['UnitFileState']}")
    if found["StatusText"]:
        click.echo(f"doing     {found['StatusText']}")
    click.echo(f"restarts  {found['NRestarts'] or '0'}")
    if found["ActiveState"] != "active":
        raise click.exceptions.Exit(1)


def _listen_arguments(given: list[str]) -> list[str]:
    """The options of `listen`, checked as it checks them, paths made absolute.

    Raises click.UsageError or SsastEdgeError for what `listen` would refuse.
    """
    from ssast_edge.bundle import load_bundle
    from ssast_edge.commands.listen import listen
    from ssast_edge.commands.options import trigger_thresholds

    context = listen.make_context("listen", list(given))
    values = context.params
    if values["input"] == "-":
        raise click.UsageError("a service has no standard input: leave --input - away")
    if values["input"] is not None and not Path(values["input"]).is_file():
        raise click.UsageError(f"--input {values['input']}: there is no such file")
    model = load_bundle(values["bundle"])
    trigger_thresholds(model, values["keywords"], values["thresholds"])
    # As they were typed, not as `listen` reads them.
    typed, _, _ = listen.make_parser(context).parse_args(list(given))
    return list(_canonical(listen, typed, Path(model.path)))


def _canonical(command: click.Command, typed: dict[str, Any], bundle: Path) -> Iterator[str]:
    for parameter in command.params:
        value = typed.get(parameter.name or "")
        if not isinstance(parameter, click.Option) or value is None:
            continue
        option = max(parameter.opts, key=len)
        if parameter.is_flag:
            yield option if value else parameter.secondary_opts[0]
            continue
        for one in value if parameter.multiple else [value]:
            if parameter.name == "input":
                one = Path(one).absolute()
            elif parameter.name == "bundle" and Path(one).absolute() == bundle.absolute():
                one = bundle.absolute()  # else it is the name of one that ships
            # One word, so that a value that begins with - stays a value.
            yield f"{option}={one}"


def _tell(outcome: "Outcome") -> None:
    for line in outcome.done:
        click.echo(line)
    if outcome.to_type:
        click.echo("then type:")
        for line in outcome.to_type:
            click.echo(f"  {line}")
