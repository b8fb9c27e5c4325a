"""Telephone sentences: the word of each, once and at a known place, and what lies beside it."""

from pathlib import Path

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (extra: train)")

from train.packs import split_of  # noqa: E402
from train.telephone import telephone_sentences, telephone_speech  # noqa: E402

RATE = 16_000


def test_a_word_is_cut_out_where_it_is_said_once(tmp_path: Path) -> None:
    rows = [
        ("a.wav", "1", "1.0", "1.5", "call the Operator now"),
        ("b.wav", "1", "1.0", "1.5", "operator operator"),
        ("c.wav", "1", "0", "0", "say think engine"),
        ("d.wav", "2", "1.0", "1.5", "hello there"),
    ]
    header = "path,session,keyword_start_s,keyword_end_s,transcript"
    text = "\n".join([header, *(",".join(row) for row in rows)])
    (tmp_path / "wuw.csv").write_text(text + "\n")
    samples = np.zeros(3 * RATE, np.float32)
    samples[RATE : RATE + RATE // 2] = 0.5
    for name, *_ in rows:
        soundfile.write(tmp_path / name, samples, RATE)
    (found,) = telephone_sentences(tmp_path)
    assert (found.path.name, found.word) == ("a.wav", "operator")
    before, word, after = found.cut()
    assert len(before) + len(word) + len(after) == len(samples)
    assert len(word) == pytest.approx(0.9 * RATE, abs=2)
    assert not before.any()
    assert not after.any()
    rest = telephone_speech(tmp_path, split_of("wuw", "1"))
    assert sum(map(len, rest)) == len(before) + len(after)
