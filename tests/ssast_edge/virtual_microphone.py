"""A microphone without a sound card: the monitor of a PulseAudio null sink.

A private PulseAudio daemon, which a user's own does not notice, plays into a null sink; a
private ALSA configuration makes the sink's monitor a recording device that PortAudio finds
under `NAME`. Both are told to a process by `VirtualMicrophone.env`: ALSA and PortAudio read
it once, so what records must be a process of its own.

Needs Debian's pulseaudio, pulseaudio-utils, libasound2-plugins and libportaudio2.
"""

import ctypes.util
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAME = "virtual microphone"

_START_S = 10.0
_ALSA_FOLDERS = ("/usr/lib/*/alsa-lib", "/usr/lib/alsa-lib", "/usr/lib64/alsa-lib")
_ALSA_CONFIG = """\
</usr/share/alsa/alsa.conf>
pcm."{name}" {{ type pulse server "{server}" device "microphone.monitor" }}
"""


def missing_requirement() -> str | None:
    """What this machine lacks for a virtual microphone, None when it has everything."""
    for program, package in [("pulseaudio", "pulseaudio"), ("pacat", "pulseaudio-utils")]:
        if shutil.which(program) is None:
            return f"{program} is missing: apt install {package}"
    if ctypes.util.find_library("portaudio") is None:
        return "PortAudio is missing: apt install libportaudio2"
    plugin = "libasound_module_pcm_pulse.so"
    if not any(list(Path("/").glob(f"{folder[1:]}/{plugin}")) for folder in _ALSA_FOLDERS):
        return "ALSA's pulse plugin is missing: apt install libasound2-plugins"
    if importlib.util.find_spec("sounddevice") is None:
        return "sounddevice is missing: pip install sounddevice"
    return None


class VirtualMicrophone:
    """What a test may do with it."""

    def __init__(self, env: dict[str, str], daemon: "subprocess.Popen[bytes]") -> None:
        self.env = env  # for the process that records
        self._daemon = daemon

    def play(self, path: Path) -> "subprocess.Popen[bytes]":
        """Begin to play a WAV file; wait() returns when it has been played."""
        return subprocess.Popen(["paplay", str(path)], env=self.env, stdin=subprocess.DEVNULL)

    @contextmanager
    def playing(self, frames: NDArray[np.float32], sample_rate: int) -> Iterator[None]:
        """Play frames, shape (N, channels), over and over."""
        loop = (
            "import sys\n"
            "frames = sys.stdin.buffer.read()\n"
            "while True:\n"
            "    sys.stdout.buffer.write(frames)\n"
        )
        command = ["pacat", "--raw", "--format=float32le", "--latency-msec=50"]
        command += [f"--rate={sample_rate}", f"--channels={frames.shape[1]}"]
        loops = subprocess.Popen(
            [sys.executable, "-c", loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert loops.stdin is not None
        assert loops.stdout is not None
        player = subprocess.Popen(command, env=self.env, stdin=loops.stdout)
        loops.stdout.close()
        try:
            loops.stdin.write(frames.astype("<f4").tobytes())
            loops.stdin.close()
            yield
        finally:
            for process in (player, loops):
                process.kill()
                process.wait()

    def unplug(self) -> None:
        """Take the device away from whoever records from it."""
        command = ["pactl", "unload-module", "module-null-sink"]
        subprocess.run(command, env=self.env, check=True, timeout=10)

    def freeze(self) -> None:
        """Let the sound server hang, as a driver might."""
        self._daemon.send_signal(signal.SIGSTOP)


@contextmanager
def virtual_microphone(*, sample_rate: int, channels: int) -> Iterator[VirtualMicrophone]:
    """A microphone of that rate and channel count that records what is played."""
    # Not pytest's folder: the name of a socket may be 107 bytes long.
    folder = Path(tempfile.mkdtemp(prefix="microphone-"))
    server = f"unix:{folder}/native"
    (folder / "alsa.conf").write_text(_ALSA_CONFIG.format(name=NAME, server=server))
    env = {key: value for key, value in os.environ.items() if key != "DBUS_SESSION_BUS_ADDRESS"}
    env |= {
        "XDG_RUNTIME_DIR": str(folder),
        "PULSE_RUNTIME_PATH": str(folder),
        "PULSE_STATE_PATH": str(folder),
        "PULSE_SERVER": server,
        "ALSA_CONFIG_PATH": str(folder / "alsa.conf"),
    }
    sink = f"module-null-sink sink_name=microphone rate={sample_rate} channels={channels} norewinds=1"
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
    command += ["--disable-shm=yes", "-L", f"module-native-protocol-unix auth-anonymous=1 socket={folder}/native"]
    command += ["-L", sink]
    log = (folder / "log").open("wb")
    # Its own home: it writes a cookie there.
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    daemon = subprocess.Popen(command, env=env | home, stdout=log, stderr=log)
    keep_awake = None
    try:
        _wait_for(daemon, env, folder / "log")
        # An idle null sink looks only every 2 s whether somebody listens.
        listener = ["pacat", "--record", "--raw", "--latency-msec=20", "--device=microphone.monitor"]
        keep_awake = subprocess.Popen(listener, env=env, stdout=subprocess.DEVNULL, stderr=log)
        yield VirtualMicrophone(env, daemon)
    finally:
        for process in (keep_awake, daemon):
            if process is not None:
                process.kill()
                process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(daemon: "subprocess.Popen[bytes]", env: dict[str, str], log: Path) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s and daemon.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            if not subprocess.run(["pactl", "info"], env=env, capture_output=True, timeout=2).returncode:
                return
        time.sleep(0.05)
    raise RuntimeError(f"PulseAudio did not start:\n{log.read_text(errors='replace')}")
