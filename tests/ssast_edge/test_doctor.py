"""The doctor's processes, and what each check makes of what it reads."""

import contextlib
import shutil
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssast_edge.doctor import gpu, machine, model, sound
from ssast_edge.doctor.checks import AREAS
from ssast_edge.doctor.examination import Line, examine
from ssast_edge.doctor.fatbin import DeviceCode, device_code
from ssast_edge.doctor.finding import STATUSES, Check, Finding, Options
from ssast_edge.doctor.level import judge, measure
from tests.ssast_edge import doctor_checks

FloatArray = NDArray[np.float32]


def _examine(*checks: Check) -> list[Line]:
    return list(examine({"area": checks}, Options()))


def test_what_hangs_is_a_problem_and_the_rest_goes_on() -> None:
    began_s = time.monotonic()
    first, second, third = _examine(
        Check("first", doctor_checks.fine),
        Check("second", doctor_checks.hangs, limit_s=0.5),
        Check("third", doctor_checks.fine),
    )
    assert time.monotonic() - began_s < 10
    assert [line.finding.status for line in (first, second, third)] == ["ok", "problem", "ok"]
    assert second.finding.text == "no answer within 0.5 s: its driver or library hangs"
    assert first.finding.text != third.finding.text  # another process


def test_what_crashes_or_ends_is_a_problem_that_says_how() -> None:
    crashed, ended, fine = _examine(
        Check("crashes", doctor_checks.crashes, decides=True),
        Check("ends", doctor_checks.ends),
        Check("fine", doctor_checks.fine),
    )
    assert crashed.finding.text.startswith("the process crashed (SIGSEGV)")
    assert crashed.stops_listen
    assert "status 3: libfoo.so: undefined symbol bar" in ended.finding.text
    assert not ended.stops_listen
    assert fine.finding.status == "ok"


def test_an_error_that_nobody_foresaw_is_one_line() -> None:
    half, failed = _examine(Check("fails", doctor_checks.fails))
    assert half.finding == Finding("warning", "half of it", "do this")
    assert failed.finding.status == "problem"
    assert failed.finding.text == "the check itself failed (ZeroDivisionError: two lines)"


@pytest.mark.parametrize(("decides", "status"), [(True, "problem"), (False, "warning")])
def test_a_users_error_is_a_problem_where_listen_needs_it(decides: bool, status: str) -> None:
    (line,) = _examine(Check("refuses", doctor_checks.refuses, decides=decides))
    assert line.finding == Finding(status, "no microphone was found", "connect one")
    assert line.stops_listen == decides


def test_what_needs_a_check_that_failed_is_not_tried() -> None:
    lines = _examine(
        Check("first", doctor_checks.skips),
        Check("second", doctor_checks.fine, needs="first"),
        Check("third", doctor_checks.hangs, needs="second"),
    )
    assert [line.finding.text for line in lines] == ["does not apply", "see first", "see second"]
    assert {line.finding.status for line in lines} == {"skipped"}


def test_every_check_has_a_name_of_its_own_and_needs_one_before_it() -> None:
    names = [check.name for checks in AREAS.values() for check in checks]
    assert len(set(names)) == len(names)
    for checks in AREAS.values():
        before = {""}
        for check in checks:
            assert check.needs in before
            assert (check.__doc__ or check.run.__doc__ or "").strip()
            before.add(check.name)


@pytest.mark.parametrize(
    ("samples", "status", "said"),
    [
        (np.zeros(1000), "warning", "digital silence"),
        (np.full(1000, 2.0**-15), "warning", "digital silence"),
        (1e-4 * np.sin(np.arange(16000)), "warning", "very faint"),
        (0.1 * np.sin(np.arange(16000)), "ok", "peak -20.0 dBFS, mean -23.0 dBFS"),
        (np.clip(2 * np.sin(np.arange(16000)), -1, 1), "warning", "clipped"),
        (0.1 * np.sin(np.arange(16000)) + 0.2, "warning", "+0.20 off the middle"),
    ],
)
def test_levels_are_judged(samples: FloatArray, status: str, said: str) -> None:
    found = judge(measure(samples.astype(np.float32)))
    assert found.status == status
    assert said in found.text
    assert bool(found.fix) == (status == "warning")


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_any_audio_has_a_level(samples: list[float]) -> None:
    assert judge(measure(np.array(samples, np.float32))).status in STATUSES


def test_thermal_zones_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    for index, files in enumerate(
        [
            {
                "type": "cpu-thermal\n",
                "temp": "81500\n",
                "trip_point_0_type": "passive\n",
                "trip_point_0_temp": "80000\n",
                "trip_point_1_type": "critical\n",
                "trip_point_1_temp": "105000\n",
            },
            {"type": "cv0-thermal\n", "temp": "not a number\n"},
            {"type": "off\n"},
            {"type": "acpitz\n", "temp": "-5000\n", "trip_point_0_type": "hot\n"},
        ]
    ):
        folder = tmp_path / f"thermal_zone{index}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    zones = machine.thermal_zones(tmp_path)
    assert zones == [("cpu-thermal", 81.5, 80.0), ("acpitz", -5.0, None)]


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ("throttled=0x0\n", ""),
        ("throttled=0x50000\n", ""),  # both were so in the past
        ("throttled=0x50005\n", "too little voltage, throttled"),
        ("throttled=0x8", "hot"),
        ("VCHI initialization failed\n", ""),
        ("", ""),
    ],
)
def test_throttling_of_a_raspberry_pi(answer: str, meaning: str) -> None:
    assert machine.throttling(answer) == meaning


def test_cpu_features_of_x86_and_arm() -> None:
    x86 = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_vnni\n"
    assert machine.cpu_info(x86) == ("Some CPU @ 2 GHz", {"fpu", "avx2", "avx512_vnni"})
    arm = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42\n"
    assert machine.cpu_info(arm) == ("", {"fp", "asimd", "asimddp"})


@pytest.mark.parametrize(
    ("text", "release", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", (36, 4, 3), "6.2"),
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic", (36, 4, 0), "6.1"),
        ("# R36 (release), REVISION: 3.0, GCID: 36923193", (36, 3, 0), "6.0"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178", (35, 4, 1), "5"),
        ("# R38 (release), REVISION: 2.2", (38, 2, 2), "7.0"),
        ("# R39 (release), REVISION: 2", (39, 2), "7.2"),
        ("# R40 (release), REVISION: 1.0", (40, 1, 0), "7.2 or newer"),
        ("nothing of the kind", (), "?"),
    ],
)
def test_releases_of_jetson_linux(text: str, release: tuple[int, ...], jetpack: str) -> None:
    assert gpu.parse_release(text) == release
    assert gpu.jetpack(release) == jetpack


def test_power_mode_is_read_from_nvpmodel() -> None:
    assert gpu.power_mode("NVPM WARN: fan\nNV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER"
    assert gpu.power_mode("nvpmodel: permission denied\n") == ""


def test_sound_servers_are_looked_for_where_clients_look() -> None:
    here = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert sound.server_sockets(here) == {
        "PulseAudio": Path("/run/user/7/pulse/native"),
        "PipeWire": Path("/run/user/7/pipewire-0"),
    }
    named = here | {"PULSE_SERVER": "unix:/tmp/pulse", "PIPEWIRE_REMOTE": "other"}
    assert list(sound.server_sockets(named).values()) == [
        Path("/tmp/pulse"),
        Path("/run/user/7/other"),
    ]
    remote = here | {"PULSE_SERVER": "tcp:host:4713"}
    assert sound.server_sockets(remote)["PulseAudio"] == Path("/run/user/7/pulse/native")


def test_an_old_onnx_runtime_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "__version__", "1.15.1")
    (found,) = model.check_onnxruntime(Options())
    assert (found.status, found.fix) == ("warning", "pip install 'onnxruntime>=1.17'")


@pytest.mark.parametrize(
    ("code", "capability", "runs"),
    [
        (DeviceCode(87, "cubin"), 87, True),
        (DeviceCode(86, "cubin"), 87, True),
        (DeviceCode(87, "cubin"), 86, False),
        (DeviceCode(87, "cubin"), 90, False),
        (DeviceCode(87, "ptx"), 90, True),
        (DeviceCode(90, "ptx"), 87, False),
        (DeviceCode(110, "cubin"), 110, True),
    ],
)
def test_device_code_runs_on_its_own_and_some_later_gpus(
    code: DeviceCode, capability: int, runs: bool
) -> None:
    assert code.runs_on(capability) == runs


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize(
    "wanted", [["compute_75", "sm_86", "sm_90"], ["sm_89"], ["sm_80", "compute_90"]]
)
def test_architectures_are_those_that_nvcc_was_given(tmp_path: Path, wanted: list[str]) -> None:
    source, library = tmp_path / "kernel.cu", tmp_path / "kernel.so"
    source.write_text("__global__ void kernel(float *x) { x[threadIdx.x] += 1; }\n")
    options = [f"-gencode=arch=compute_{name.partition('_')[2]},code={name}" for name in wanted]
    command = ["nvcc", "-shared", "-Xcompiler", "-fPIC", *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert [str(code) for code in device_code(library)] == wanted


def test_a_library_without_device_code_has_none(tmp_path: Path) -> None:
    library = tmp_path / "empty.so"
    library.write_bytes(_elf())
    assert device_code(library) == []


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x7fELF\x01\x01" + bytes(90), b"\x7fELF\x02\x01"]
)
def test_what_is_no_library_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 (mmap has a message of its own)
        device_code(path)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_altered_libraries_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, piece: bytes
) -> None:
    container = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 80)
    container += struct.pack("<HHIQ", 2, 1, 64, 16) + bytes(12) + struct.pack("<I", 87)
    content = bytearray(_elf(container.ljust(96, b"\0")))
    content[position : position + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / "altered.so"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert all(code.architecture < 1000 for code in device_code(path))


def _elf(fatbin: bytes = b"") -> bytes:
    """A 64-bit ELF file with section names and, if given, device code."""
    names = b"\0.shstrtab\0.nv_fatbin\0"
    offset = 64 + len(names)
    sections = [(0, 0, 0), (1, 64, len(names))]
    sections += [(11, offset, len(fatbin))] if fatbin else []
    header = b"\x7fELF\x02\x01".ljust(0x28, b"\0") + struct.pack("<Q", offset + len(fatbin))
    header = header.ljust(0x3A, b"\0") + struct.pack("<HHH", 64, len(sections), 1)
    table = b"".join(
        struct.pack("<I20xQQ", name, start, size).ljust(64, b"\0") for name, start, size in sections
    )
    return header.ljust(64, b"\0") + names + fatbin + table


def test_the_file_of_the_tests_is_understood(tmp_path: Path) -> None:
    container = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 80)
    container += struct.pack("<HHIQ", 2, 1, 64, 16) + bytes(12) + struct.pack("<I", 87)
    path = tmp_path / "library.so"
    path.write_bytes(_elf(container.ljust(96, b"\0")))
    assert device_code(path) == [DeviceCode(87, "cubin")]
