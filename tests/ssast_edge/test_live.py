"""The terminal view: what it draws, how often, and what it leaves behind."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.live import REDRAW_S, LiveView, Status, Style, bar, render

FloatArray = NDArray[np.float32]

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STATUS = Status(
    title="a microphone with a long name (wake-words)",
    time_s=3723.4,
    level_db=-23.0,
    is_clipping=True,
    scores={"alexa": 0.91, "smart_mirror": 0.2, "a_label_of_more_than_twenty_letters": 0.0},
    thresholds={"alexa": 0.5, "smart_mirror": 0.5},
)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    with io.StringIO() as stream:
        yield stream


@pytest.mark.parametrize("width", [10, 16, 24, 33, 40, 60, 80, 200])
@pytest.mark.parametrize("has_blocks", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, has_blocks: bool) -> None:
    lines = render(STATUS, Style(width=width, height=24, has_color=True, has_blocks=has_blocks))
    assert max(len(ESCAPE.sub("", line)) for line in lines) < width


@pytest.mark.parametrize("height", [2, 3, 5, 8, 24])
def test_the_view_is_lower_than_the_terminal(height: int) -> None:
    assert len(render(STATUS, Style(width=80, height=height))) < height


def test_without_colour_and_blocks_the_view_is_plain_ascii() -> None:
    lines = render(STATUS, Style(width=80, height=24))
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_a_score_at_its_threshold_stands_out_in_colour_only_when_asked() -> None:
    coloured = render(STATUS, Style(width=80, height=24, has_color=True))
    assert [line for line in coloured if ESCAPE.search(line)] == [coloured[2]]


def test_of_many_labels_the_highest_are_shown() -> None:
    scores = {f"sound{index}": index / 1000 for index in range(527)}
    status = Status(
        title="", time_s=0, level_db=-60, is_clipping=False, scores=scores, thresholds={}
    )
    lines = render(status, Style(width=80, height=24))
    assert len(lines) < 20
    assert lines[2].startswith("sound526")


@pytest.mark.parametrize(
    ("fraction", "mark", "drawn"),
    [
        (0.0, None, "...."),
        (0.5, None, "##.."),
        (1.0, None, "####"),
        (7.0, None, "####"),
        (-1.0, None, "...."),
        (0.25, 0.5, "#.|."),
        (1.0, 1.0, "####"),
    ],
)
def test_bar_fills_from_the_left(fraction: float, mark: float | None, drawn: str) -> None:
    assert bar(fraction, 4, has_blocks=False, mark=mark) == drawn


def test_the_view_is_redrawn_no_more_than_ten_times_a_second(stream: io.StringIO) -> None:
    block = np.zeros(1600, np.float32)
    with LiveView(stream, title="file", thresholds={"alexa": 0.5}) as view:
        for index in range(1000):
            view.show_audio(block, index / 10, 0.0, 0)
    assert stream.getvalue().count("level") <= 2


def test_at_the_end_only_the_permanent_lines_are_left(stream: io.StringIO) -> None:
    with LiveView(stream, title="file", thresholds={"alexa": 0.5}) as view:
        view.show_scores(0.1, {"alexa": 0.2})
        view.show_audio(np.ones(1600, np.float32), 0.1, 0.0, 0)
        view.print_line("00:00.10  alexa  0.93")
    assert _screen(stream.getvalue()) == ["00:00.10  alexa  0.93"]
    assert stream.getvalue().endswith("\x1b[?25h")


def test_a_recent_high_score_stays_in_view_for_two_seconds(stream: io.StringIO) -> None:
    with LiveView(stream, title="file", thresholds={"alexa": 0.5}) as view:
        view.show_scores(1.0, {"alexa": 0.87})
        view.show_scores(2.9, {"alexa": 0.01})
        view.print_line("first")
        assert "0.87" in stream.getvalue()
        view.show_scores(3.1, {"alexa": 0.01})
        view.print_line("second")
    assert "0.87" not in stream.getvalue().split("second")[1]


def test_a_terminal_keeps_detections_and_summary(
    tone_folder: Path, tone_audio: Callable[..., FloatArray], tmp_path: Path
) -> None:
    samples = tone_audio(1.5, (0.3, 0.6, 440.0), (0.9, 1.2, 3000.0))
    _write_wav(tmp_path / "tones.wav", samples)
    options = ["--bundle", str(tone_folder), "--input", str(tmp_path / "tones.wav"), "--realtime"]
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ssast_edge", "listen", *options],
        cwd=ROOT,
        stdout=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
    ) as process:
        os.close(follower)
        written = _read_terminal(leader)
        assert process.wait(TIMEOUT_S) == 0
    os.close(leader)
    low, high, summary = _screen(written)
    assert (low.split()[1], high.split()[1]) == ("low_tone", "high_tone")
    assert summary.startswith("2 detections in 00:01.50 of audio")
    redraws = written.count("level ")
    assert 5 <= redraws <= 1.5 / REDRAW_S + 5  # and one for each line above


def _read_terminal(leader: int) -> str:
    """Everything that is written to a terminal until its last writer closes it."""
    written = b""
    while select.select([leader], [], [], TIMEOUT_S)[0]:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        written += piece
    return written.decode().replace("\r\n", "\n")


def _screen(written: str) -> list[str]:
    """What a terminal shows after these bytes: the few control sequences that the view uses."""
    lines, row, column = [""], 0, 0
    for match in re.finditer(r"\x1b\[([0-9?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)", written):
        argument, command, control, text = match.groups()
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif command == "A":
            row -= int(argument)
        elif command == "K":
            lines[row] = lines[row][:column]
        elif command == "J":
            lines[row:] = [lines[row][:column]]
    return [line for line in lines if line]


def _write_wav(path: Path, samples: FloatArray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
