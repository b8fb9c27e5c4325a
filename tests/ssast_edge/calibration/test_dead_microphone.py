"""Hours of digital silence are told: a muted microphone hears no false accepts either."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from ssast_edge.cli import main


@pytest.mark.parametrize(("level", "is_told"), [(0.0, True), (1e-3, False)])
def test_digital_silence_is_told(
    tone_folder: Path, tmp_path: Path, level: float, is_told: bool
) -> None:
    noise = level * np.random.default_rng(0).standard_normal(20 * 16000)
    soundfile.write(tmp_path / "room.wav", noise, 16000, subtype="FLOAT")
    arguments = ["calibrate", str(tone_folder), "--out", str(tmp_path / "out")]
    arguments += ["--audio", str(tmp_path / "room.wav"), "--target", "1000"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    assert ("100 % of what was heard now is digital silence" in ran.output) == is_told
