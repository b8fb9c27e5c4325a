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
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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

    def __init__(
        self,
        sample_rate: int,
        channels: int,
        env: dict[str, str],
        daemon: "subprocess.Popen[bytes]",
    ) -> None:
        self.sample_rate = sample_rate  # Hz
        self.channels = channels
        self.env = env  # for the process that records
        self._daemon = daemon

    def play(self, path: Path) -> "subprocess.Popen[bytes]":
        """Begin to play a WAV file; wait() returns when all of it has been heard."""
        return subprocess.Popen(["paplay", str(path)], env=self.env, stdin=subprocess.DEVNULL)

    @contextmanager
    def playing(self, path: Path) -> Iterator[None]:
        """Play a WAV file meanwhile, and stop it then."""
        player = self.play(path)
        try:
            yield
        finally:
            player.kill()
            player.wait()

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
    modules = [
        f"module-native-protocol-unix auth-anonymous=1 socket={folder}/native",
        # Without norewinds an idle null sink looks only every 2 s whether somebody listens.
        f"module-null-sink sink_name=microphone norewinds=1 rate={sample_rate} channels={channels}",
    ]
    options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
    command = ["pulseaudio", *options, "--disable-shm=yes"]
    command += [word for module in modules for word in ("-L", module)]
    # A home of its own: it writes a cookie there.
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(command, env=env | home, stdout=log, stderr=log)
    try:
        _wait_for(daemon, env, folder / "log")
        yield VirtualMicrophone(sample_rate, channels, env, daemon)
    finally:
        daemon.kill()
        daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(daemon: "subprocess.Popen[bytes]", env: dict[str, str], log: Path) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s and daemon.poll() is None:
        with suppress(subprocess.SubprocessError):
            command = ["pactl", "info"]
            subprocess.run(command, env=env, check=True, capture_output=True, timeout=2)
            return
        time.sleep(0.05)
    raise RuntimeError(f"PulseAudio did not start:\n{log.read_text(errors='replace')}")
