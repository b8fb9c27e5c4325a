"""A detector that is another program: real child processes, no stand-in."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.errors import DetectorError
from ssast_edge.evaluation.external import DetectorRun, check_command, run_detector

SECONDS = 3
AUDIO = np.zeros(16000 * SECONDS, np.float32)
ROOT = Path(__file__).parents[3]

Run = Callable[..., DetectorRun]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a script over three seconds of silence; its temporary files go below tmp_path/temp."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))

    def start(code: str, audio: NDArray[np.float32] = AUDIO, **options: object) -> DetectorRun:
        script = tmp_path / "detector with a space.py"
        script.write_text("import json, sys, time\n" + code)
        command = shlex.join([sys.executable, "-S", str(script), "--keyword", "view glass"])
        return run_detector("Other", command, audio, labels=["computer", "jarvis"], **options)  # type: ignore[arg-type]

    return start


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temp").iterdir())


def test_events_are_grouped_by_setting_and_sorted(run: Run, tmp_path: Path) -> None:
    found = run(
        """
print('{"settings": [0.3, 0.5, 0.9], "passes": 3}')
print('{"setting": 0.5, "label": "computer", "time_s": 2.5, "score": 0.7}')
print('{"progress": 0.5}')
print()
print('{"setting": 0.5, "label": "jarvis", "time_s": 1}')
print('{"setting": 0.3, "label": "computer", "time_s": 2.5}')
"""
    )
    assert found.settings == (0.3, 0.5, 0.9)
    assert [(d.label, d.time_s, d.score) for d in found.events[0.5]] == [
        ("jarvis", 1.0, 1.0),
        ("computer", 2.5, 0.7),
    ]
    assert found.events[0.9] == ()
    assert (found.name, found.passes) == ("Other", 3)
    assert found.hours == pytest.approx(SECONDS / 3600)
    assert left(tmp_path) == []


def test_the_program_gets_its_arguments_and_the_audio_rounded_to_16_bits(run: Run) -> None:
    audio = np.array([0, 0.5, -0.25, 1.5, -1.5, 0.6 / 32768], np.float32)
    audio = np.concatenate([audio, np.zeros(16000 * 90, np.float32)])
    found = run(
        """
import struct, wave
assert sys.argv[1:3] == ["--keyword", "view glass"], sys.argv
with wave.open(sys.argv[-1]) as file:
    assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
    frames = file.readframes(file.getnframes())
assert len(frames) == 2 * (16000 * 90 + 6), len(frames)
first = struct.unpack("<6h", frames[:12])
assert first == (0, 16384, -8192, 32767, -32768, 1), first
print('{"settings": [0]}')
""",
        audio,
    )
    assert found.settings == (0.0,)


def test_settings_may_be_undeclared_and_output_empty(run: Run) -> None:
    assert run("").settings == ()
    assert run("print('{\"settings\": []}')").settings == ()
    found = run(
        """
for setting in 0.7, 0.2, 0.7:
    print(json.dumps({"setting": setting, "label": "computer", "time_s": 0}))
"""
    )
    assert found.settings == (0.7, 0.2)
    assert len(found.events[0.7]) == 2


def test_cpu_time_is_that_of_the_program_alone(run: Run) -> None:
    busy = "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    busy += 'print(\'{"settings": [1, 2], "passes": 2}\')'
    found = run(busy)
    assert 0.3 <= found.cpu_seconds < 1.5
    assert found.cpu_seconds_per_hour == pytest.approx(found.cpu_seconds / 2 / found.hours)
    assert run("time.sleep(0.3)").cpu_seconds < 0.25


def test_progress_is_passed_on(run: Run) -> None:
    shares: list[float] = []
    run("print('{\"progress\": 0.25}')\nprint('{\"progress\": 7}')", progress=shares.append)
    assert shares == [0.25, 1.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Traceback", "line 1 of its output: not JSON: Traceback"),
        ("[1]", "not a JSON object"),
        ("{}", 'wanted "settings", or'),
        ('{"setting": 1, "label": "alexa", "time_s": 1}', "unknown label, known: computer, jarvis"),
        ('{"setting": 1, "label": ["jarvis"], "time_s": 1}', "unknown label"),
        ('{"setting": 1, "label": "jarvis", "time_s": 9}', "outside of the audio, 0 to 3.50 s"),
        ('{"setting": 1, "label": "jarvis", "time_s": -1}', "outside of the audio"),
        ('{"setting": 1, "label": "jarvis", "time_s": NaN}', "time_s must be a number"),
        ('{"setting": 1, "label": "jarvis", "time_s": "1"}', "time_s must be a number"),
        ('{"setting": true, "label": "jarvis", "time_s": 1}', "setting must be a number"),
        ('{"label": "jarvis", "time_s": 1}', "without 'setting'"),
        ('{"setting": 1, "label": "jarvis"}', "without 'time_s'"),
        ('{"setting": 1, "label": "jarvis", "time_s": 1, "end": 2}', "unknown 'end'"),
        ('{"settings": 1}', "settings must be a list"),
        ('{"settings": [1, 1]}', "declared twice"),
        ('{"settings": [1], "passes": 0}', "passes must be"),
        ('{"settings": [1' + "0" * 400 + "]}", "a setting must be a number"),
        (
            '{"settings": [1]}\n{"settings": [2]}',
            "line 2 of its output: settings are",
        ),
        (
            '{"settings": [1]}\n{"setting": 2, "label": "jarvis", "time_s": 1}',
            "the setting was not declared",
        ),
        ("[" * 2000, "not JSON"),
        ("x" * 10000, "longer than 4096 bytes"),
        ("\\x00\\xff\\x1b[2J", "not JSON"),
    ],
)
def test_a_line_outside_of_the_protocol_is_told_in_one_line(
    run: Run, tmp_path: Path, line: str, message: str
) -> None:
    code = f"sys.stdout.write('''{line}''' + chr(10))\nsys.stdout.flush()\ntime.sleep(60)"
    with pytest.raises(DetectorError) as raised:
        run(code)
    shown = str(raised.value)
    assert message in shown
    assert shown.startswith("Other: ")
    assert shown.isprintable()
    assert left(tmp_path) == []


def test_a_failing_program_is_told_with_its_last_words(run: Run) -> None:
    with pytest.raises(DetectorError, match="Other: ended with status 1; it said: no licence file"):
        run("print('warning', file=sys.stderr)\nsys.exit('no licence file')")
    with pytest.raises(DetectorError, match="was ended by SIGKILL; it said nothing"):
        run("import os\nos.kill(os.getpid(), 9)")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/no/such/program --x", "Other: no program '/no/such/program' is found"),
        ("no-such-program-anywhere", "is found"),
        ("'half", "cannot be split"),
        (" ", "has no command"),
        (str(ROOT / "README.md"), "README.md' is found"),
        (str(ROOT), "no program"),
        (f"{sys.executable} 'a\x00b'", "cannot be run: embedded null byte"),
    ],
)
def test_a_command_that_cannot_run_is_one_line(command: str, message: str) -> None:
    with pytest.raises(DetectorError) as raised:
        run_detector("Other", command, AUDIO, labels=["computer"])
    assert message in str(raised.value)
    if "\x00" not in command:
        with pytest.raises(DetectorError) as raised:
            check_command("Other", command)
        assert message in str(raised.value)


def test_audio_of_no_or_too_great_length_is_refused() -> None:
    class Endless:
        def __len__(self) -> int:
            return 16000 * 3600 * 40

        def __getitem__(self, cut: slice, /) -> NDArray[np.float32]:
            raise AssertionError("nothing is written")

    for audio in (AUDIO[:0], Endless()):
        with pytest.raises(DetectorError, match="do not fit a WAV file"):
            run_detector("Other", sys.executable, audio, labels=["computer"])


def test_a_program_that_hangs_is_ended_with_its_children(run: Run, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(DetectorError, match="was ended after 1 s, the time limit"):
        run(
            f"""
import subprocess
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(60)
""",
            limit_s=1,
        )
    assert time.monotonic() - begin < 20
    assert_ends(int((tmp_path / "pid").read_text()))
    assert left(tmp_path) == []


def test_ctrl_c_ends_the_program_and_removes_the_audio(tmp_path: Path) -> None:
    detector = tmp_path / "detector.py"
    detector.write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'pid')!r}, {str(tmp_path / 'ready')!r})\ntime.sleep(60)\n"
    )
    (tmp_path / "temp").mkdir()
    command = shlex.join([sys.executable, "-S", str(detector)])
    ours = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import numpy\nfrom ssast_edge.evaluation.external import run_detector\n"
            f"run_detector('o', {command!r}, numpy.zeros(16000, 'f'), labels=['a'])",
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path / "temp")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ours.send_signal(signal.SIGINT)
        _, errors = ours.communicate(timeout=30)
    finally:
        ours.kill()
    assert "KeyboardInterrupt" in errors
    assert_ends(int((tmp_path / "ready").read_text()))
    assert left(tmp_path) == []


def assert_ends(pid: int) -> None:
    """A killed child of nobody may be a zombie until init looks at it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs")
