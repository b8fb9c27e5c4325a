"""The systemd unit that keeps `ssast-edge listen` running: its text and its place.

Knows nothing of options and starts nothing; `service.py` installs it. systemd.service(5) and
systemd.exec(5) say what each line does.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssast_edge.errors import SsastEdgeError

# The first line, by which a unit of ours is known again.
MARK = "# Written by `ssast-edge service install`; a new install replaces it."
SYSTEM_FOLDER = Path("/etc/systemd/system")
# Those of these groups that exist are the sound device's and the GPU's on Debian and Jetson.
DEVICE_GROUPS = ("audio", "video", "render")

_PLAIN = re.compile(r"[A-Za-z0-9_@:=,./+-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")

_SERVICE = """\
{mark}
[Unit]
Description=ssast-edge: keywords in live audio
After={after}
# A microphone may be away for longer than any limit on restarts.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
WorkingDirectory=/
{account}Restart=on-failure
RestartSec=5
# Ready when the first audio has arrived; a sign of life comes only after audio was heard.
TimeoutStartSec={start_s}
WatchdogSec=30
TimeoutStopSec=15
LimitCORE=0
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
# Sound servers and udev, no network: nothing leaves the machine.
RestrictAddressFamilies=AF_UNIX AF_NETLINK
{hardening}
[Install]
WantedBy={wanted_by}
"""

# Only root's manager can make these: a user's has no right to mount.
_SYSTEM_HARDENING = """\
CapabilityBoundingSet=
IPAddressDeny=any
PrivateTmp=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
"""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A service for one microphone."""

    command: Sequence[str]  # the program by its absolute path, then its arguments
    name: str = "ssast-edge"
    user: str | None = None  # of a system service; None: a service of the user who installs it
    groups: tuple[str, ...] = ()  # beside the user's own, of a system service

    def __post_init__(self) -> None:
        """Refuse what systemd cannot be told."""
        check_name(self.name)
        if self.user is not None and not _NAME.fullmatch(self.user):
            raise SsastEdgeError(f"{self.user!r} cannot be a user's name: give a plain one")

    @property
    def start_s(self) -> int:
        """Seconds until the first audio, at most; an engine takes minutes to build."""
        return 1800 if "--rebuild" in self.command else 120

    @property
    def text(self) -> str:
        """The unit file. Raises SsastEdgeError for an argument that cannot be written in it."""
        is_system = self.user is not None
        account = ""
        if is_system:
            account = f"User={self.user}\n"
            account += f"SupplementaryGroups={' '.join(self.groups)}\n" if self.groups else ""
            # The user may have no home: engines are kept in /var/cache/NAME/.
            account += f"CacheDirectory={self.name}\n"
            account += f"Environment=XDG_CACHE_HOME=/var/cache/{self.name}\n"
        return _SERVICE.format(
            mark=MARK,
            after="sound.target" if is_system else "pipewire.service pulseaudio.service",
            command=exec_line(self.command),
            account=account,
            start_s=self.start_s,
            hardening=_SYSTEM_HARDENING if is_system else "",
            wanted_by="multi-user.target" if is_system else "default.target",
        )


def check_name(name: str) -> None:
    """Raise SsastEdgeError unless a unit can be called so."""
    if not _NAME.fullmatch(name):
        raise SsastEdgeError(
            f"a service cannot be called {name!r}: wanted letters, digits, - and _, at most 61"
        )


def unit_path(name: str, *, is_system: bool, environ: Mapping[str, str] | None = None) -> Path:
    """Where systemd looks for the unit: /etc, or the user's configuration."""
    check_name(name)
    if is_system:
        return SYSTEM_FOLDER / f"{name}.service"
    environ = os.environ if environ is None else environ
    configured = Path(environ.get("XDG_CONFIG_HOME", ""))
    # The standard says that a relative one is to be ignored.
    folder = configured if configured.is_absolute() else Path.home() / ".config"
    return folder / "systemd/user" / f"{name}.service"


def is_ours(path: Path) -> bool:
    """Whether that file is a unit that was written here."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n") == MARK


def exec_line(command: Sequence[str]) -> str:
    """The value of ExecStart= that starts exactly these arguments; no shell is involved.

    Raises SsastEdgeError for control characters, text that is no UTF-8, and a program whose path
    is relative or holds $, which systemd replaces in some places and not in others.
    """
    program = command[0]
    if not program.startswith("/"):
        raise SsastEdgeError(f"the program {program!r} must be given by its absolute path")
    if "$" in program:
        raise SsastEdgeError(
            f"systemd cannot start {program!r} because of the $: install ssast-edge elsewhere"
        )
    return " ".join(_quoted(argument) for argument in command)


def _quoted(argument: str) -> str:
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in argument):
        raise SsastEdgeError(
            f"{argument!r} cannot stand in a systemd unit: rename what it names, without line "
            "breaks and other control characters"
        )
    escaped = argument.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(argument):
        return escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
