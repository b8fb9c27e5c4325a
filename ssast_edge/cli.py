"""The command `ssast-edge`: a click group whose commands are imported when they are used.

Everything a user can get wrong ends here, as one line on stderr and a status other than 0.
"""

import errno
import io
import sys
from importlib import import_module

import click

from ssast_edge.errors import SsastEdgeError

# Command -> the module that has it, as a function of the same name.
COMMANDS = {
    "listen": "ssast_edge.commands.listen",
    "tag": "ssast_edge.commands.tag",
    "demo": "ssast_edge.commands.demo",
    "devices": "ssast_edge.commands.devices",
    "info": "ssast_edge.commands.info",
    "calibrate": "ssast_edge.commands.calibrate",
    "enroll": "ssast_edge.commands.enroll",
    "eval": "ssast_edge.commands.eval",
    "bench": "ssast_edge.commands.bench",
    "build": "ssast_edge.commands.build",
    "doctor": "ssast_edge.commands.doctor",
    "service": "ssast_edge.commands.service",
}


class LazyGroup(click.Group):
    """A group of the commands in COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a user's mistake becomes one line."""
        _escape_what_cannot_be_shown()
        try:
            return super().invoke(ctx)
        except SsastEdgeError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read the output has left: click ends quietly
            where = error.filename or "the output cannot be written"
            raise click.ClickException(f"{where}: {error.strerror or error}") from error
        except click.UsageError as error:
            error.ctx = None  # with it click writes the usage too, three lines in all
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, param, is_asked: _tell_version(ctx) if is_asked else None,
    help="Show the version and exit.",
)
def main() -> None:
    """Find spoken keywords and other sounds in live audio, on this device alone."""


def _tell_version(ctx: click.Context) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        shown = version("ssast-edge")
    except PackageNotFoundError:
        shown = "(a checkout that is not installed)"
    click.echo(f"{ctx.find_root().info_name} {shown}")
    ctx.exit()


def _escape_what_cannot_be_shown() -> None:
    """A file name or label that the terminal's encoding lacks must not end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
