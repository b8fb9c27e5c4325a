"""Checks of the microphone: library, rights, devices, rates, and a second of its sound."""

import grp
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from ssast_edge.c_stderr import silent_c_stderr
from ssast_edge.doctor.finding import Check, Finding, Options, Skipped, ok, warning
from ssast_edge.doctor.level import check_level
from ssast_edge.microphone import Device, find_device, list_devices

RATES = (8000, 16000, 22050, 32000, 44100, 48000, 96000)  # Hz
_CONNECT_S = 1.0


def check_portaudio(options: Options) -> Iterator[Finding]:
    """The library that records."""
    _need_microphone(options)
    with silent_c_stderr():
        list_devices()  # says in a line what is missing
        import sounddevice
    version = sounddevice.get_portaudio_version()[1].partition(",")[0]
    yield ok(f"{version}, sounddevice {sounddevice.__version__}")


def check_rights(options: Options) -> Iterator[Finding]:
    """Sound cards that this user may use, and sound servers that answer."""
    _need_microphone(options)
    cards = capture_nodes(Path("/dev/snd"))
    denied = [node for node in cards if not os.access(node, os.R_OK | os.W_OK)]
    servers = [name for name, path in server_sockets(os.environ).items() if _answers(path)]
    server = " and ".join(servers)
    found = f"{len(cards)} that record in /dev/snd" if cards else "no sound card records"
    if denied and not servers:
        yield warning(
            f"{found}, but this user may not use {denied[0]} (group {_group(denied[0])})",
            f'sudo usermod -aG {_group(denied[0])} "$USER", then log out and in',
        )
    elif servers:
        yield ok(f"{found}; {server} answers")
    elif cards:
        yield ok(f"{found}; no sound server")
    else:
        yield warning(
            "there is no sound card that records and no sound server answers",
            "connect a microphone; in a container: --device /dev/snd --group-add audio",
        )


def capture_nodes(folder: Path) -> list[Path]:
    """Device files of ALSA that record, pcmC<card>D<device>c."""
    return sorted(folder.glob("pcmC*D*c"))


def server_sockets(environ: Mapping[str, str]) -> dict[str, Path]:
    """Where PulseAudio's and PipeWire's sockets are for this user, whether or not they exist."""
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    pulse = environ.get("PULSE_SERVER", "").removeprefix("unix:")
    if not pulse.startswith("/"):  # another host's, or none
        pulse = f"{environ.get('PULSE_RUNTIME_PATH') or runtime + '/pulse'}/native"
    pipewire = environ.get("PIPEWIRE_REMOTE") or "pipewire-0"
    return {"PulseAudio": Path(pulse), "PipeWire": Path(runtime, pipewire)}


def check_devices(options: Options) -> Iterator[Finding]:
    """The microphone that `listen` would use, among those that there are."""
    chosen = _chosen(options)
    others = [f"{device.index} {device.name!r}" for device in list_devices() if device != chosen]
    more = f"; also {', '.join(others)}" if others else ""
    default = ", the default" if chosen.is_default else ""
    yield ok(f"{chosen.index} {chosen.name!r}{default}{more}")


def check_rates(options: Options) -> Iterator[Finding]:
    """Rates that the chosen microphone takes; `listen` records at its own and resamples."""
    device = _chosen(options)
    import sounddevice

    taken = []
    with silent_c_stderr():
        for rate in RATES:
            try:
                sounddevice.check_input_settings(device=device.index, channels=1, samplerate=rate)
            except (sounddevice.PortAudioError, ValueError):
                try:  # a card itself, hw:, may take no channel count but its own
                    sounddevice.check_input_settings(
                        device=device.index, channels=device.channels, samplerate=rate
                    )
                except (sounddevice.PortAudioError, ValueError):
                    continue
            taken.append(rate)
    own = f"its own is {device.sample_rate} Hz"
    if not taken:
        yield warning(
            f"{device.name}: takes none of {', '.join(map(str, RATES))} Hz now; {own}",
            "end the program that uses it (fuser -v /dev/snd/*)",
        )
        return
    yield ok(f"{device.name}: {', '.join(map(str, taken))} Hz; {own}, resampled to the model's")


def check_sound(options: Options) -> Iterator[Finding]:
    """A second of it."""
    yield from check_level(_chosen(options), options)


def _need_microphone(options: Options) -> None:
    if not options.has_microphone:
        raise Skipped("no microphone is asked for")


def _chosen(options: Options) -> Device:
    """Raises AudioError when there is none such."""
    with silent_c_stderr():
        return find_device(_wanted(options), list_devices())


def _wanted(options: Options) -> int | str | None:
    """An index or a part of the name, as `listen --device` takes it."""
    device = options.device
    return int(device) if device and device.isdecimal() else device


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def _group(path: Path) -> str:
    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        return "audio"


CHECKS = (
    Check("PortAudio", check_portaudio, decides=True),
    Check("sound system", check_rights),
    Check("microphone", check_devices, decides=True, needs="PortAudio"),
    Check("sample rates", check_rates, needs="microphone"),
    Check("level", check_sound, decides=True, needs="microphone"),
)
