"""Installs, removes and asks after the systemd service of `ssast-edge listen`.

Speaks to systemd by `systemctl` alone, and only where systemd runs.
"""

import contextlib
import grp
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssast_edge.errors import SsastEdgeError
from ssast_edge.systemd.unit import DEVICE_GROUPS, Unit, is_ours, unit_path

SYSTEMCTL_S = 30  # beyond the unit's own time to start
_IMPORT_S = 30
_SHOWN = ("LoadState", "ActiveState", "SubState", "StatusText", "NRestarts", "UnitFileState")


@dataclass(frozen=True)
class Outcome:
    """What was done, and what is left for the user to type."""

    done: tuple[str, ...]
    to_type: tuple[str, ...] = ()


def listen_command(arguments: Sequence[str]) -> list[str]:
    """How this very installation starts `listen`, from any folder.

    Raises SsastEdgeError when it can only be started from its checkout.
    """
    # The path as it is, not resolved: a virtual environment is known by it.
    program = os.path.abspath(sys.executable)
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    check = [program, "-c", "import ssast_edge.cli"]
    try:
        ran = subprocess.run(
            check, cwd="/", env=environ, capture_output=True, timeout=_IMPORT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SsastEdgeError(
            f"{program} did not import ssast-edge within {_IMPORT_S} s: this machine is too busy "
            "to say whether a service could start it; try again"
        ) from error
    if ran.returncode != 0:
        raise SsastEdgeError(
            f"ssast-edge is not installed for {program}, so a service cannot start it: "
            f"{shlex.quote(program)} -m pip install ssast-edge (or the path of its checkout)"
        )
    return [program, "-m", "ssast_edge", "listen", *arguments]


def device_groups() -> tuple[str, ...]:
    """The groups of sound devices and GPUs that this machine has."""
    known = {group.gr_name for group in grp.getgrall()}
    return tuple(name for name in DEVICE_GROUPS if name in known)


def install(unit: Unit, *, start: bool) -> Outcome:
    """Write the unit, have systemd read it, enable it and start it if asked.

    Raises SsastEdgeError when the place is taken by a file of somebody else, cannot be written,
    or systemd refuses.
    """
    is_system = unit.user is not None
    path = unit_path(unit.name, is_system=is_system)
    text = unit.text
    if path.exists() and not is_ours(path):
        raise SsastEdgeError(f"{path} was not written by ssast-edge: choose another --name")
    _write(path, text)
    done = [f"wrote {path}"]
    to_type = _account_hints(unit)
    service = f"{unit.name}.service"
    commands = [["daemon-reload"], ["enable", service]]
    commands += [["restart", service]] if start else []
    is_ready = not to_type  # without its user the service cannot start
    if is_ready and _is_running():
        for command in commands:
            _systemctl(command, is_system=is_system, limit_s=unit.start_s + SYSTEMCTL_S)
        done.append(f"enabled {'and started ' if start else ''}{service}")
    else:
        to_type += [_typed(command, is_system=is_system) for command in commands]
    if not is_system:
        to_type.append("loginctl enable-linger  # to run also while you are not logged in")
    return Outcome(tuple(done), tuple(to_type))


def uninstall(name: str, *, is_system: bool) -> Outcome:
    """Stop and disable the service and delete its unit; nothing to do is no error."""
    path = unit_path(name, is_system=is_system)
    if not path.exists():
        return Outcome((f"there is no {path}: nothing to do",))
    if not is_ours(path):
        raise SsastEdgeError(f"{path} was not written by ssast-edge: not removed")
    disable = ["disable", "--now", f"{name}.service"]
    has_systemd = _is_running()
    if has_systemd:
        _systemctl(disable, is_system=is_system)
    path.unlink()
    if has_systemd:
        _systemctl(["daemon-reload"], is_system=is_system)
        return Outcome((f"stopped {name}.service", f"removed {path}"))
    # `enable` may have been typed where systemd runs: its link would point nowhere.
    for target in ("default.target.wants", "multi-user.target.wants"):
        with contextlib.suppress(FileNotFoundError):
            (path.parent / target / path.name).unlink()
    return Outcome((f"removed {path}",))


def state(name: str, *, is_system: bool) -> dict[str, str]:
    """What is known of the service: `file` and, where systemd runs, systemd's properties.

    ActiveState is "active" when it listens; empty without systemd. Raises SsastEdgeError when
    the unit is not installed.
    """
    path = unit_path(name, is_system=is_system)
    if not path.exists():
        scope = " --system" if is_system else ""
        raise SsastEdgeError(
            f"{path} is not there: the service is not installed (ssast-edge service install{scope})"
        )
    found = {"file": str(path), **dict.fromkeys(_SHOWN, "")}
    if _is_running():
        wanted = ["show", f"{name}.service", f"--property={','.join(_SHOWN)}"]
        for line in _systemctl(wanted, is_system=is_system).splitlines():
            key, _, value = line.partition("=")
            found[key] = value
    return found


def _write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except PermissionError as error:
        raise SsastEdgeError(f"{path} cannot be written: a system service needs sudo") from error


def _account_hints(unit: Unit) -> list[str]:
    """What to type first when the user of a system service does not exist."""
    if unit.user is None:
        return []
    try:
        pwd.getpwnam(unit.user)
    except KeyError:
        groups = f" --groups {','.join(unit.groups)}" if unit.groups else ""
        return [f"sudo useradd --system --no-create-home{groups} {unit.user}"]
    return []


def _is_running() -> bool:
    """Whether systemd is this machine's init: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _systemctl(arguments: Sequence[str], *, is_system: bool, limit_s: float = SYSTEMCTL_S) -> str:
    """Its output. Raises SsastEdgeError when it fails or does not answer."""
    command = ["systemctl", *([] if is_system else ["--user"]), "--no-pager", *arguments]
    shown = _typed(arguments, is_system=is_system)
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise SsastEdgeError(f"{shown} did not end within {limit_s:g} s") from error
    if ran.returncode != 0:
        reason = ran.stderr.strip() or f"status {ran.returncode}"
        raise SsastEdgeError(f"{shown} failed: {reason}")
    return ran.stdout


def _typed(arguments: Sequence[str], *, is_system: bool) -> str:
    return shlex.join(
        ["sudo", "systemctl", *arguments] if is_system else ["systemctl", "--user", *arguments]
    )
