"""The systemd unit: what it says, where it goes, and that systemd reads it as it was meant."""

import ctypes
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ssast_edge.cli import main
from ssast_edge.errors import SsastEdgeError
from ssast_edge.systemd import service
from ssast_edge.systemd.unit import MARK, Unit, exec_line, unit_path

TIMEOUT_S = 60
# systemd's own parser, where this version of it is installed: its flags differ between versions.
_SYSTEMD = sorted(Path("/usr/lib").glob("*/systemd/libsystemd-shared-252.so"))
_CUNESCAPE, _UNQUOTE = 1 << 1, 1 << 5

_arguments = st.lists(
    st.text(
        st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from(" \\\"'%$;#={}`!~*"),
        max_size=20,
    ),
    max_size=5,
)


@given(_arguments)
def test_any_printable_arguments_are_quoted_so_that_they_come_back(arguments: list[str]) -> None:
    command = ["/usr/bin/python 3", *arguments]
    assert _split(exec_line(command)) == command


@pytest.mark.skipif(not _SYSTEMD, reason="systemd 252 is not installed")
@given(_arguments)
def test_systemd_itself_splits_them_so(arguments: list[str]) -> None:
    command = ["/usr/bin/python", *arguments]
    assert _split_by_systemd(exec_line(command)) == command


@given(_arguments, st.sampled_from("\n\r\0\t\x1b\x7f\x85\ud800"))
def test_control_characters_are_refused(arguments: list[str], bad: str) -> None:
    with pytest.raises(SsastEdgeError, match="cannot stand in a systemd unit"):
        exec_line(["/usr/bin/python", *arguments, f"a{bad}b"])


@given(_arguments)
def test_no_argument_adds_a_line_to_the_unit(arguments: list[str]) -> None:
    plain = Unit(command=["/usr/bin/python"]).text
    text = Unit(command=["/usr/bin/python", *arguments]).text
    assert text.count("\n") == plain.count("\n")
    changed = [
        line
        for line, other in zip(text.split("\n"), plain.split("\n"), strict=True)
        if line != other
    ]
    assert all(line.startswith("ExecStart=/usr/bin/python ") for line in changed)


@pytest.mark.parametrize("program", ["python", "", "/opt/a$b/python"])
def test_a_program_that_systemd_would_not_find_is_refused(program: str) -> None:
    with pytest.raises(SsastEdgeError):
        exec_line([program, "-m", "ssast_edge"])


@pytest.mark.parametrize("name", ["", "../evil", "a b", "-x", "a.service", "x" * 62, "a\nb"])
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(SsastEdgeError, match="cannot be called"):
        unit_path(name, is_system=False)
    with pytest.raises(SsastEdgeError, match="cannot be called"):
        Unit(command=["/bin/true"], name=name)


def test_the_unit_restarts_is_watched_and_is_fenced_in() -> None:
    user, system = (
        Unit(command=["/usr/bin/python", "-m", "ssast_edge"], user=name, groups=("audio",)).text
        for name in (None, "ears")
    )
    for text in (user, system):
        for line in (
            "Type=notify",
            "Restart=on-failure",
            "WatchdogSec=30",
            "NoNewPrivileges=yes",
            "RestrictAddressFamilies=AF_UNIX AF_NETLINK",
            "ExecStart=/usr/bin/python -m ssast_edge",
        ):
            assert line in text.splitlines()
    assert "WantedBy=default.target" in user
    assert "User=" not in user
    assert "WantedBy=multi-user.target" in system
    assert {"User=ears", "SupplementaryGroups=audio", "ProtectSystem=strict"} <= set(
        system.splitlines()
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("user", [None, "root"])
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path, user: str | None) -> None:
    # What follows the program may be odd.
    unit = Unit(command=[sys.executable, "-m", "ssast_edge", '--device=US$B %h "x" \\'], user=user)
    path = tmp_path / "odd-but-fine.service"
    path.write_text(unit.text)
    ran = subprocess.run(
        ["systemd-analyze", "verify", str(path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "info"},
    )
    said = [line for line in ran.stderr.splitlines() if "odd-but-fine" in line]
    assert (ran.returncode, said) == (0, [])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where units of the user go, on a machine without a running systemd."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(service, "_is_running", lambda: False)
    return tmp_path / "config/systemd/user"


def test_install_and_uninstall(home: Path, tone_folder: Path) -> None:
    result = _invoke("install", "--bundle", str(tone_folder), "--keyword", "low-tone", "--json")
    path = home / "ssast-edge.service"
    assert result.exit_code == 0, result.output
    assert f"wrote {path}" in result.output
    assert "systemctl --user enable ssast-edge.service" in result.output
    assert "loginctl enable-linger" in result.output
    assert path.read_text().startswith(f"{MARK}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    started = _split(_exec_start(path.read_text()))
    assert started[0] == os.path.abspath(sys.executable)
    assert started[1:] == [
        *("-m", "ssast_edge", "listen"),
        *(f"--bundle={tone_folder}", "--keyword=low-tone", "--json"),
    ]
    assert [found.name for found in home.iterdir()] == ["ssast-edge.service"]
    assert _invoke("install", "--bundle", str(tone_folder)).exit_code == 0  # anew
    assert "--json" not in path.read_text()
    assert "systemd does not run here" in _invoke("status").output
    removed = _invoke("uninstall")
    assert f"removed {path}" in removed.output
    assert not path.exists()
    assert _invoke("uninstall").exit_code == 0
    assert "is not installed" in _invoke("status").output


def test_print_installs_nothing(home: Path, tone_folder: Path) -> None:
    result = _invoke("install", "--print", "--system", "--bundle", str(tone_folder))
    assert result.exit_code == 0
    assert result.output.startswith(f"{MARK}\n[Unit]\n")
    assert result.output.endswith("WantedBy=multi-user.target\n")
    assert not home.exists()


def test_relative_paths_become_absolute_and_names_stay(
    home: Path, tone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tone_folder, tmp_path / "my $ bundle")
    (tmp_path / "audio.wav").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    result = _invoke("install", "--print", "--bundle", "my $ bundle", "--input", "audio.wav")
    started = _split(_exec_start(result.output))
    assert set(started[4:]) == {f"--bundle={tmp_path}/my $ bundle", f"--input={tmp_path}/audio.wav"}
    result = _invoke("install", "--print", "--bundle", "wake-words")
    assert _split(_exec_start(result.output))[4:] == ["--bundle=wake-words"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bundle", "no-such-bundle"], "no bundle 'no-such-bundle'"),
        (["--input", "-"], "no standard input"),
        (["--input", "absent.wav"], "no such file"),
        (["--no-such-option"], "No such option"),
        (["--threshold", "2"], "between 0 and 1"),
        (["--bundle", "{tones}", "--keyword", "robin"], "unknown keyword 'robin'"),
        (["--bundle", "{tones}", "--device", "a\nb"], "cannot stand in a systemd unit"),
        (["--name", "../x"], "cannot be called"),
        (["--system", "--user", "a b"], "cannot be a user's name"),
    ],
)
def test_what_listen_would_refuse_is_not_installed(
    home: Path, tone_folder: Path, options: list[str], said: str
) -> None:
    result = _invoke("install", *(option.format(tones=tone_folder) for option in options))
    assert result.exit_code != 0
    assert len(result.output.splitlines()) == 1
    assert said in result.output
    assert not home.exists()


def test_a_unit_of_somebody_else_is_left_alone(home: Path, tone_folder: Path) -> None:
    home.mkdir(parents=True)
    path = home / "ssast-edge.service"
    path.write_text("[Service]\nExecStart=/bin/true\n")
    for command in (["install", "--bundle", str(tone_folder)], ["uninstall"]):
        result = _invoke(*command)
        assert result.exit_code == 1
        assert "was not written by ssast-edge" in result.output
    assert path.read_text().endswith("/bin/true\n")


def test_systemd_is_told_in_order(
    home: Path, tone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _fake_systemctl(tmp_path, monkeypatch, "exit 0")
    assert _invoke("install", "--bundle", str(tone_folder)).exit_code == 0
    assert _invoke("uninstall").exit_code == 0
    assert calls() == [
        "--user --no-pager daemon-reload",
        "--user --no-pager enable ssast-edge.service",
        "--user --no-pager restart ssast-edge.service",
        "--user --no-pager disable --now ssast-edge.service",
        "--user --no-pager daemon-reload",
    ]


def test_a_refusal_of_systemd_is_one_line(
    home: Path, tone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_systemctl(tmp_path, monkeypatch, 'echo "Failed to connect to bus" >&2; exit 1')
    result = _invoke("install", "--bundle", str(tone_folder))
    assert result.exit_code == 1
    assert result.output == (
        "Error: systemctl --user daemon-reload failed: Failed to connect to bus\n"
    )


@pytest.mark.parametrize(("state", "status"), [("active", 0), ("failed", 1)])
def test_status_is_that_of_the_service(
    home: Path,
    tone_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    status: int,
) -> None:
    assert _invoke("install", "--bundle", str(tone_folder)).exit_code == 0
    shown = (
        f"echo ActiveState={state}; echo SubState=running; echo StatusText=a=b; echo NRestarts=3"
    )
    _fake_systemctl(tmp_path, monkeypatch, f'printf "%s\\n" {shown}')
    result = _invoke("status")
    assert result.exit_code == status
    assert re.search(rf"state +{state} \(running\)", result.output)
    assert re.search(r"doing +a=b\nrestarts +3\n", result.output)


def test_a_system_service_says_how_to_make_its_user(
    tone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssast_edge.systemd.unit.SYSTEM_FOLDER", tmp_path)
    calls = _fake_systemctl(tmp_path, monkeypatch, "exit 0")
    options = ["--system", "--user", "no-such-user", "--bundle", str(tone_folder)]
    result = _invoke("install", *options)
    assert result.exit_code == 0
    assert "sudo useradd --system --no-create-home" in result.output
    assert "sudo systemctl enable ssast-edge.service" in result.output
    assert calls() == []  # without its user it could not start


def _fake_systemctl(
    folder: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> Callable[[], list[str]]:
    """A systemctl that writes down how it was called; where systemd runs."""
    program, log = folder / "bin/systemctl", folder / "calls"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{log}\n{body}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "_is_running", lambda: True)
    return lambda: log.read_text().splitlines() if log.exists() else []


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["service", *arguments])


def _exec_start(unit: str) -> str:
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    return line.partition("=")[2]


def _split(line: str) -> list[str]:
    """Arguments as systemd.syntax(7) and systemd.service(5) say."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"(?: |$)|(\S+)(?: |$)', line)
    plain = [bare or re.sub(r"\\(.)", r"\1", quoted) for quoted, bare in words]
    return [word.replace("$$", "$").replace("%%", "%") for word in plain]


def _split_by_systemd(line: str) -> Sequence[str]:
    extract = ctypes.CDLL(str(_SYSTEMD[-1])).extract_first_word
    rest = ctypes.c_char_p(line.encode())
    words = []
    while True:
        word = ctypes.c_char_p()
        found = extract(ctypes.byref(rest), ctypes.byref(word), None, _CUNESCAPE | _UNQUOTE)
        assert found >= 0
        if not found:
            return words
        words.append((word.value or b"").decode().replace("$$", "$").replace("%%", "%"))


def test_a_machine_too_busy_to_import_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_IMPORT_S", 0)
    with pytest.raises(SsastEdgeError, match="did not import ssast-edge within 0 s"):
        service.listen_command([])
