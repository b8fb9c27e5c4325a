"""What can be wrong with the recordings of an evaluation, and how it is told."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssast_edge.errors import AudioError, SsastEdgeError
from ssast_edge.evaluation.manifest import read_recordings
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.track import build_track


def test_a_recording_is_listed_once_but_as_noise_again(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,kind,label\na.wav,sound,rain\n./a.wav,noise,rain\n", "utf-8")
    assert len(read_recordings(manifest)) == 2
    manifest.write_text("path,kind,label\na.wav,sound,rain\n./a.wav,speech,\n", "utf-8")
    with pytest.raises(SsastEdgeError, match=r"lists .*a\.wav more than once: it is played once"):
        read_recordings(manifest)


def test_a_word_that_ends_after_its_recording_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(16000, 0.1), 16000)
    word = Recording(path, "keyword", "go", start_s=0.2, end_s=9.0)
    told: list[str] = []
    speech = Recording(path, "speech")
    track = build_track([word, speech], seed=0, on_unreadable=lambda r, why: told.append(why))
    assert track.words == ()
    assert "is 1.00 s long, its word is said to end at 9 s" in told[0]


def test_no_readable_recording_is_one_clear_line(tmp_path: Path) -> None:
    lost = Recording(tmp_path / "x.wav", "speech")
    with pytest.raises(AudioError, match=r"none of 1 recordings can be read: .*x\.wav"):
        build_track([lost], seed=0, on_unreadable=lambda r, why: None)
