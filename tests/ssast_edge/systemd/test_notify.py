"""What `listen` tells systemd: a real process, a real socket."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.systemd.notify import ServiceManager
from tests.ssast_edge.virtual_microphone import NAME, missing_requirement, virtual_microphone

FloatArray = NDArray[np.float32]

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 30

_missing = missing_requirement()


class FakeManager:
    """Receives what a service sends."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def receive(self, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
        """The fields of the next message; TimeoutError when there is none."""
        self._socket.settimeout(timeout_s)
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def receive_all(self) -> list[dict[str, str]]:
        """What has arrived by now."""
        messages = []
        try:
            while True:
                messages.append(self.receive(0.05))
        except TimeoutError:
            return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeManager]:
    address = f"@ssast-edge-test-{os.getpid()}-{time.monotonic_ns()}"
    if request.param == "path":
        address = str(tmp_path_factory.mktemp("n") / "notify")
    fake = FakeManager(address)
    yield fake
    fake.close()


def test_ready_watchdog_and_status_go_out(manager: FakeManager) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "300000"})
    assert service.watchdog_s == 0.3
    service.alive(lambda: "two\nlines")
    assert manager.receive() == {"READY": "1", "WATCHDOG": "1", "STATUS": "two lines"}
    service.alive(lambda: "too early")
    assert manager.receive_all() == []
    time.sleep(0.11)
    service.alive(lambda: "no status yet")
    assert manager.receive() == {"WATCHDOG": "1"}
    service.stopping("bye")
    assert manager.receive() == {"STOPPING": "1", "STATUS": "bye"}
    service.alive(lambda: "gone")
    service.stopping("again")
    assert manager.receive_all() == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "/no/such/socket"},
        {"NOTIFY_SOCKET": "/" + 200 * "x"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "@nobody-listens-here"},
    ],
)
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    service = ServiceManager(environ)
    assert not service.is_there
    service.alive(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    service.stopping("bye")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "x"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_is_named(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert ServiceManager(environ).watchdog_s == seconds


def test_a_manager_that_has_gone_or_is_busy_stops_nothing(tmp_path: Path) -> None:
    fake = FakeManager(str(tmp_path / "notify"))
    service = ServiceManager({"NOTIFY_SOCKET": fake.address, "WATCHDOG_USEC": "3"})
    began_s = time.monotonic()
    for _ in range(2000):  # more than the socket's queue holds
        service.alive(lambda: "status")
        time.sleep(2e-6)
    assert time.monotonic() - began_s < 5
    fake.close()
    service.alive(lambda: "status")
    service.stopping("bye")


def test_listen_says_ready_when_audio_arrives_and_not_before(
    manager: FakeManager, tone_folder: Path, tone_audio: Callable[..., FloatArray]
) -> None:
    with _listening(manager, "--input", "-", "--bundle", str(tone_folder)) as process:
        assert process.stdin is not None
        with pytest.raises(TimeoutError):
            manager.receive(1.0)
        process.stdin.write(_pcm(tone_audio(2.0, (0.5, 1.0, 440.0))))
        process.stdin.flush()
        first = manager.receive()
        assert (first["READY"], first["WATCHDOG"]) == ("1", "1")
        assert re.search(r"of audio, \d+ detected, .* % of real time, 0.0 s lost", first["STATUS"])
        manager.receive_all()
        # Nothing arrives: no sign of life, and systemd would end it.
        with pytest.raises(TimeoutError):
            manager.receive(0.5)
        process.stdin.write(_pcm(tone_audio(1.0)))
        process.stdin.flush()
        assert manager.receive()["WATCHDOG"] == "1"
        process.stdin.close()
        assert process.wait(TIMEOUT_S) == 0
        *_, last = manager.receive_all()
        assert last["STOPPING"] == "1"
        assert "00:03 of audio, 1 detected" in last["STATUS"]


@pytest.mark.microphone
@pytest.mark.skipif(_missing is not None, reason=f"no virtual microphone: {_missing}")
def test_listen_on_a_microphone_keeps_the_watchdog_quiet(
    tone_folder: Path, tone_audio: Callable[..., FloatArray], tmp_path: Path
) -> None:
    fake = FakeManager(f"@ssast-edge-test-microphone-{os.getpid()}")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(_pcm(tone_audio(2.0, (0.5, 1.0, 440.0))))
    with virtual_microphone(sample_rate=48_000, channels=1) as microphone:
        arguments = ("--device", NAME, "--bundle", str(tone_folder))
        with _listening(fake, *arguments, env=microphone.env) as process:
            assert fake.receive()["READY"] == "1"
            beats = sum("WATCHDOG" in fake.receive(1.0) for _ in range(10))
            assert beats >= 9  # one of them may only tell the status
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0
            assert fake.receive_all()[-1]["STOPPING"] == "1"
    fake.close()


@contextmanager
def _listening(
    manager: FakeManager, *arguments: str, env: dict[str, str] | None = None
) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-m", "ssast_edge", "listen", *arguments, "--json"]
    told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "300000"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**(env or os.environ), **told},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()


def _pcm(samples: FloatArray) -> bytes:
    return np.round(32_767 * np.clip(samples, -1, 1)).astype("<i2").tobytes()
