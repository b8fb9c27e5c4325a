"""`ssast-edge enroll --record` at a microphone that records what is said when it asks."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge import Spotter, load_bundle
from ssast_edge.bundle import Bundle
from tests.ssast_edge.enrollment.conftest import RATE, VOICES
from tests.ssast_edge.enrollment.test_enroll_command import WORD, write
from tests.ssast_edge.virtual_microphone import (
    NAME,
    VirtualMicrophone,
    missing_requirement,
    virtual_microphone,
)

FloatArray = NDArray[np.float32]

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60

_missing = missing_requirement()
pytestmark = [
    pytest.mark.microphone,
    pytest.mark.skipif(_missing is not None, reason=f"no virtual microphone: {_missing}"),
]


def test_a_word_is_said_when_asked_for_and_heard_after_that(
    voices: Bundle, say: Callable[..., FloatArray], tmp_path: Path
) -> None:
    takes = [
        write(tmp_path / f"{speed}.wav", say(WORD, VOICES[0], speed)[RATE // 6 : -RATE // 6])
        for speed in (156, 162, 168)
    ]
    kept, out = tmp_path / "kept", tmp_path / "out"
    options = [WORD, "--bundle", str(voices.path), "--out", str(out), "--keep", str(kept)]
    with virtual_microphone(sample_rate=48_000, channels=2) as microphone:
        status, said = _enroll(microphone, [*options, "--record", "3"], takes)
    assert status == 0, said
    assert said.count(f"say {WORD!r} now ... ") == 3, said
    assert said.count("dBFS") == 3
    assert len(list(kept.iterdir())) == 3
    made = load_bundle(out)
    assert made.enrolled[0].word.clips == 3
    assert WORD in [found.label for found in Spotter(made).push(say(WORD, VOICES[0], 159))]


def test_a_take_without_a_word_is_asked_for_again(voices: Bundle, tmp_path: Path) -> None:
    options = [WORD, "--bundle", str(voices.path), "--out", str(tmp_path / "out"), "--record", "3"]
    with virtual_microphone(sample_rate=16_000, channels=1) as microphone:
        said = _enroll(microphone, options, [], until=b"microphone\n")[1]
    prompt, again = said.split("again: ")
    assert prompt.startswith(f"1 of 3: say {WORD!r} now ... ")
    assert again.endswith("take 1 is silent: record it again, or check the microphone\n")
    assert not (tmp_path / "out").exists()


def _enroll(
    microphone: VirtualMicrophone, options: list[str], takes: list[Path], until: bytes = b"\0"
) -> tuple[int, str]:
    """Status and stderr of a session that says the takes, one whenever it is asked.

    until: it is killed when it says so.
    """
    command = [sys.executable, "-m", "ssast_edge", "enroll", *options, "--device", NAME]
    process = subprocess.Popen(
        command, cwd=ROOT, env=microphone.env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    said, left, players = b"", list(takes), []
    with process:
        assert process.stderr is not None
        while until not in said and (byte := process.stderr.read(1)):  # a prompt ends no line
            said += byte
            if said.endswith(b"now ... ") and left:
                players.append(microphone.play(left.pop(0)))
        if until in said:
            process.kill()
    watchdog.cancel()
    for player in players:
        player.wait(TIMEOUT_S)
    return process.returncode, said.decode()
