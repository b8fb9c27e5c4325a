"""Checks of the GPU: driver, compute capability, and on a Jetson its release and power mode."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssast_edge.doctor.finding import Check, Finding, Options, Skipped, ok, warning

DRIVER = "libcuda.so.1"
TEGRA_RELEASE = Path("/etc/nv_tegra_release")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

# Jetson Linux -> JetPack, the newest first: from NVIDIA's archive of releases.
_JETPACKS = (
    ((39, 2), "7.2"),
    ((38, 4), "7.1"),
    ((38, 2), "7.0"),
    ((36, 5), "6.2.2"),
    ((36, 4, 4), "6.2.1"),
    ((36, 4, 3), "6.2"),
    ((36, 4), "6.1"),
    ((36, 0), "6.0"),
    ((35, 0), "5"),
    ((32, 0), "4"),
)
FIRST_SUPPORTED = (36, 4)  # JetPack 6.1: TensorRT 10.3

# cuDeviceGetAttribute
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A device that the CUDA driver sees."""

    name: str
    capability: int  # 87 for 8.7
    memory_mb: int


@dataclass(frozen=True)
class Driver:
    """What the CUDA driver says."""

    cuda: str  # the newest CUDA that it runs, "12.6"
    gpus: tuple[Gpu, ...]


def is_jetson() -> bool:
    """Whether this is NVIDIA's board, also from within a container."""
    return TEGRA_RELEASE.exists() or "tegra" in _device_tree("compatible")


def has_nvidia() -> bool:
    """Whether there is an NVIDIA GPU, whatever state its driver is in."""
    return is_jetson() or NVIDIA_DRIVER.exists() or Path("/dev/nvidiactl").exists()


def read_driver() -> Driver:
    """Ask the CUDA driver. Raises OSError when it is missing, RuntimeError when it fails."""
    cuda = ctypes.CDLL(DRIVER)

    def call(name: str, *arguments: object) -> None:
        result = getattr(cuda, name)(*arguments)
        if result != 0:
            text = ctypes.c_char_p()
            cuda.cuGetErrorString(result, ctypes.byref(text))
            said = (text.value or b"unknown error").decode(errors="replace")
            raise RuntimeError(f"{name} gave error {result}: {said}")

    def number(name: str, *arguments: object) -> int:
        value = ctypes.c_int()
        call(name, ctypes.byref(value), *arguments)
        return value.value

    call("cuInit", 0)
    version = number("cuDriverGetVersion")
    gpus = []
    for index in range(number("cuDeviceGetCount")):
        device = number("cuDeviceGet", index)
        name, memory = ctypes.create_string_buffer(128), ctypes.c_size_t()
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        major, minor = (
            number("cuDeviceGetAttribute", attribute, device)
            for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)
        )
        gpus.append(
            Gpu(name.value.decode(errors="replace"), 10 * major + minor, memory.value // 2**20)
        )
    return Driver(f"{version // 1000}.{version % 1000 // 10}", tuple(gpus))


def check_gpu(options: Options) -> Iterator[Finding]:
    """Driver and GPUs."""
    try:
        driver = read_driver()
    except OSError as error:
        if not has_nvidia():
            raise Skipped("this machine has no NVIDIA GPU; ONNX Runtime needs none") from error
        fix = "sudo apt install nvidia-jetpack" if is_jetson() else "install NVIDIA's driver"
        yield warning(
            f"an NVIDIA GPU, but {DRIVER} cannot be loaded", f"{fix}; in a container: {_CONTAINER}"
        )
        return
    except RuntimeError as error:
        if not has_nvidia():
            raise Skipped(f"this machine has no NVIDIA GPU ({error})") from error
        yield warning(str(error), f"restart; in a container: {_CONTAINER}")
        return
    if not driver.gpus:
        yield warning(f"CUDA {driver.cuda}, but no GPU is visible", _CONTAINER)
    for gpu in driver.gpus:
        yield ok(
            f"{gpu.name}, compute capability {gpu.capability // 10}.{gpu.capability % 10}, "
            f"{gpu.memory_mb} MB, CUDA {driver.cuda}{_driver_version()}"
        )


_CONTAINER = "docker run --runtime nvidia (Jetson) or --gpus all"


def check_jetpack(options: Options) -> Iterator[Finding]:
    """Jetson Linux and JetPack."""
    if not is_jetson():
        raise Skipped("not a Jetson")
    board = _device_tree("model") or "a Jetson"
    release = (
        parse_release(TEGRA_RELEASE.read_text(errors="replace")) if TEGRA_RELEASE.exists() else ()
    )
    if not release:
        yield warning(
            f"{board}, of which the release is not known: {TEGRA_RELEASE} is missing",
            f"in a container: -v {TEGRA_RELEASE}:{TEGRA_RELEASE}:ro",
        )
        return
    shown = ".".join(map(str, release))
    text = f"{board}, Jetson Linux {shown} (JetPack {jetpack(release)})"
    if release < FIRST_SUPPORTED:
        yield warning(
            f"{text}: its TensorRT 8 is too old, ONNX Runtime on the CPU is left",
            "flash JetPack 6.1 or newer (docs/deploy.md)",
        )
    else:
        yield ok(text)


def parse_release(text: str) -> tuple[int, ...]:
    """(36, 4, 3) from `# R36 (release), REVISION: 4.3, GCID: ...`; () when it is not in it."""
    found = re.search(r"R(\d+)\b.*?REVISION:\s*([\d.]+)", text)
    if found is None:
        return ()
    return (int(found[1]), *(int(part) for part in found[2].split(".") if part))


def jetpack(release: tuple[int, ...]) -> str:
    """The JetPack of a Jetson Linux release, "?" for one older than any known here."""
    if release > (*_JETPACKS[0][0], 99):
        return f"{_JETPACKS[0][1]} or newer"
    return next((name for first, name in _JETPACKS if release >= first), "?")


def check_power(options: Options) -> Iterator[Finding]:
    """Which power mode a Jetson is in: clocks, and with them latency, follow from it."""
    if not is_jetson():
        raise Skipped("not a Jetson")
    program = shutil.which("nvpmodel", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise Skipped("nvpmodel is not here (in a container it never is)")
    ran = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=10, check=False)
    mode = power_mode(ran.stdout)
    if not mode:
        said = (ran.stderr or ran.stdout).strip().splitlines()
        raise Skipped(f"nvpmodel does not say ({said[0] if said else 'nothing'}): sudo nvpmodel -q")
    more = "" if mode.startswith("MAXN") else "; faster ones: grep POWER_MODEL /etc/nvpmodel.conf"
    yield ok(f"{mode}{more}")


def power_mode(text: str) -> str:
    """MAXN from `NV Power Mode: MAXN`, empty when it is not in it."""
    found = re.search(r"NV Power Mode:\s*(\S.*)", text)
    return found[1].strip() if found else ""


def _driver_version() -> str:
    try:
        text = NVIDIA_DRIVER.read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"\b(\d{3,}\.[\d.]+)\b", text)
    return f", driver {found[1]}" if found else ""


def _device_tree(name: str) -> str:
    try:
        text = Path("/proc/device-tree", name).read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return text.replace("\0", " ").strip()


CHECKS = (
    Check("GPU", check_gpu, limit_s=30),
    Check("JetPack", check_jetpack),
    Check("power mode", check_power),
)
