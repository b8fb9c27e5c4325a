"""What was heard survives a killed process, and nothing else passes for it."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssast_edge.bundle import Bundle
from ssast_edge.calibration.state import FILE, Header, Hops, State, header_of
from ssast_edge.errors import SsastEdgeError

HEADER = Header("0123", ("alexa", "computer"), 0.02, 9)


def _hops(seed: int, count: int) -> Hops:
    rng = np.random.default_rng(seed)
    return Hops(
        np.sort(rng.uniform(0, 30, count)),
        rng.random((count, 2), np.float32),
        rng.random(count) < 0.2,
    )


def _fill(folder: Path | None) -> State:
    """Two streams in three records."""
    with State(HEADER, folder) as state:
        first = state.begin("room.wav", begun="", identity="a")
        state.add(_later(first, 30.0), _hops(1, 5))
        state.add(_later(first, 60.0), _hops(2, 0))
        second = state.begin("microphone", begun="2026-11-24T10:00:00+00:00", identity="b")
        state.add(_later(second, 12.5), _hops(3, 7))
    return state


def _later(progress: Any, heard_s: float) -> Any:
    return replace(progress, heard_s=heard_s, last_s=heard_s, after=3)


def _same(one: State, other: State) -> bool:
    rooms = [state.room(HEADER.labels, {}) for state in (one, other)]
    return one.streams == other.streams and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(*(room.stretches for room in rooms), strict=True)
        for name in ("times_s", "scores", "is_after_gap")
    )


def test_it_is_read_back_to_the_bit(tmp_path: Path) -> None:
    kept = _fill(None)
    _fill(tmp_path / "state")
    with State(HEADER, tmp_path / "state") as state:
        assert _same(state, kept)
        assert state.heard_s == 72.5


def test_a_half_written_record_is_cut_off_wherever_it_ends(tmp_path: Path) -> None:
    _fill(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    sizes = set()
    for end in range(0, len(whole), 7):
        (tmp_path / FILE).write_bytes(whole[:end])
        with State(HEADER, tmp_path) as state:
            sizes.add(len(state.streams))
            assert state.heard_s in (0.0, 30.0, 60.0, 72.5)
        with State(HEADER, tmp_path) as again:
            assert again.streams == state.streams
    assert sizes == {0, 1}
    (tmp_path / FILE).write_bytes(whole[:-1] + b"?")
    with State(HEADER, tmp_path) as state:
        assert state.heard_s == 60.0
        state.add(_later(state.begin("x", begun="", identity="c"), 1.0), _hops(4, 2))
    with State(HEADER, tmp_path) as state:
        assert state.heard_s == 61.0


def test_a_quiet_hour_takes_little_disk(tmp_path: Path) -> None:
    with State(HEADER, tmp_path) as state:
        stream = state.begin("room.wav", begun="", identity="a")
        for minute in range(120):
            state.add(_later(stream, 30.0 * (minute + 1)), _hops(1, 9))
    assert (tmp_path / FILE).stat().st_size < 60_000


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with State(HEADER, tmp_path):
        with pytest.raises(SsastEdgeError, match="another process is writing this state"):
            State(HEADER, tmp_path).__enter__()
        code = (
            "import sys; from pathlib import Path\n"
            "from ssast_edge.calibration.state import *\n"
            "State(Header('0123', ('alexa', 'computer'), 0.02, 9), Path(sys.argv[1])).__enter__()"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            env=os.environ,
        )
        assert "another process is writing this state" in ran.stderr


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (Header("other", HEADER.labels, 0.02, 9), "holds what another model heard"),
        (Header("0123", ("alexa",), 0.02, 9), "holds what another model heard"),
        (Header("0123", HEADER.labels, 0.01, 9), "too little was kept"),
        (Header("0123", HEADER.labels, 0.02, 12), "too little was kept"),
    ],
)
def test_a_state_of_something_else_is_refused(tmp_path: Path, header: Header, said: str) -> None:
    _fill(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(SsastEdgeError, match=said):
        State(header, tmp_path).__enter__()
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("content", [b"dear diary", b"RIFF1234WAVE" * 1000])
def test_a_foreign_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(SsastEdgeError, match="is no state of ssast-edge"):
        State(HEADER, tmp_path).__enter__()
    assert (tmp_path / FILE).read_bytes() == content


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SsastEdgeError, match="the state cannot be kept there"):
        State(HEADER, tmp_path / "file" / "state").__enter__()


def test_a_bundle_in_which_nothing_can_fire_is_refused(tone_bundle: Bundle) -> None:
    silent = replace(tone_bundle, task="audio-tagging", triggers={})
    with pytest.raises(SsastEdgeError, match="no label has a trigger"):
        header_of(silent)


def test_the_header_tells_models_apart_but_not_thresholds(
    tone_bundle: Bundle, write_tones: Any, tmp_path: Path
) -> None:
    other = write_tones(tmp_path / "tones", name="renamed")
    assert header_of(other) == header_of(tone_bundle)
    assert header_of(write_tones(tmp_path / "hop", hop_ms=80)).model != header_of(other).model
