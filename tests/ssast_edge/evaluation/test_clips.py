"""Clips through the streaming runtime, and how often they are called what they are."""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.classification import Classification, evaluate_classification
from ssast_edge.evaluation.clips import (
    SILENCE_LABEL,
    UNKNOWN_LABEL,
    ClipScores,
    LabelledClips,
    labelled_clips,
    score_clips,
)
from ssast_edge.evaluation.clips_evaluation import count_clips, evaluate_clips
from ssast_edge.evaluation.clips_report import clip_sections
from ssast_edge.evaluation.confusion_chart import confusion_chart
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.scores import run_bundle

Audio = Callable[..., NDArray[np.float32]]
LOW_HZ, HIGH_HZ = 440.0, 3000.0


@pytest.fixture
def tone_clips(tmp_path: Path, tone_audio: Audio) -> list[Recording]:
    """Four clips of each tone by two speakers, one second each."""
    clips = []
    for number in range(8):
        name, hz = (("low tone", LOW_HZ), ("high_tone", HIGH_HZ))[number % 2]
        path = tmp_path / f"{number} é.wav"
        soundfile.write(path, tone_audio(1.0, (0.2, 1.0, hz)), 16000)
        clips.append(Recording(path, "keyword", name, speaker=f"s{number // 4}"))
    return clips


def tables(labels: tuple[str, ...], truth: list[int], named: list[int]) -> Any:
    """Clips and scores as if a model had named them so."""
    recordings = tuple(
        Recording(Path(f"{i}.wav"), "keyword", labels[t], speaker=f"s{i // 3}")
        for i, t in enumerate(truth)
    )
    clips = LabelledClips(labels, recordings, tuple((t,) for t in truth), {})
    table = np.eye(len(labels), dtype=np.float32)[named]
    nothing = np.zeros((0, len(labels)), np.float32)
    scores = ClipScores(
        np.arange(len(truth)), {"last": table, "max": table, "mean": table},
        nothing, np.zeros(0, np.intp), (), 1.0, True,
    )  # fmt: skip
    return clips, scores


def test_a_clip_is_scored_as_a_stream_that_begins_with_it(
    tone_bundle: Bundle, tmp_path: Path, tone_audio: Audio
) -> None:
    samples = tone_audio(1.3, (0.1, 0.5, LOW_HZ), (0.7, 1.3, HIGH_HZ))
    path = tmp_path / "both.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    clips = labelled_clips(tone_bundle, [Recording(path, "keyword", "low_tone")], sounds=False)
    found = score_clips(tone_bundle, clips)
    hops = run_bundle(tone_bundle, samples)
    window_s = 19 * 0.01 + 0.025
    heard = hops.scores[hops.times_s >= window_s / 2]
    np.testing.assert_array_equal(found.tables["last"][0], hops.scores[-1])
    np.testing.assert_array_equal(found.tables["max"][0], heard.max(axis=0))
    np.testing.assert_allclose(found.tables["mean"][0], heard.mean(axis=0), rtol=1e-6)
    assert found.tables["last"][0].argmax() == 1
    assert (found.tables["max"][0][:2] > 0.9).all()
    # A stream goes on when a word is over.
    longer = score_clips(tone_bundle, clips, tail_s=0.16)
    hops = run_bundle(tone_bundle, np.pad(samples, (0, 2560)))
    np.testing.assert_array_equal(longer.tables["last"][0], hops.scores[-1])
    assert longer.audio_s == found.audio_s


def test_the_last_hop_tells_of_short_clips_and_the_highest_scores_of_long_ones(
    tone_bundle: Bundle, tmp_path: Path, tone_audio: Audio
) -> None:
    for length_s, rule in ((0.2, "last"), (1.0, "max")):
        path = tmp_path / "tone.wav"
        soundfile.write(path, tone_audio(length_s, (0.0, 0.2, LOW_HZ)), 16000)
        found = evaluate_clips(tone_bundle, [Recording(path, "keyword", "low_tone")])
        assert found.classification is not None
        assert found.classification.rule == rule
        assert found.classification.accuracy.value == 1


def test_one_clip_does_not_hear_the_one_before(
    tone_bundle: Bundle, tone_clips: list[Recording]
) -> None:
    chosen = labelled_clips(tone_bundle, tone_clips[:2], sounds=False)
    alone = labelled_clips(tone_bundle, tone_clips[1:2], sounds=False)
    together = score_clips(tone_bundle, chosen).tables["mean"][1]
    np.testing.assert_array_equal(together, score_clips(tone_bundle, alone).tables["mean"][0])


def test_words_that_the_bundle_lacks_are_unknown_or_left_out(
    tone_bundle: Bundle, write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    words = [
        Recording(Path("a"), "keyword", "Low-Tone"),
        Recording(Path("b"), "speech", "tree"),
        Recording(Path("c"), "speech"),
        Recording(Path("d"), "noise", "low_tone"),
        Recording(Path("e"), "noise", SILENCE_LABEL),
        Recording(Path("f"), "sound", "high_tone"),
    ]
    without = labelled_clips(tone_bundle, words, sounds=False)
    assert [r.path.name for r in without.recordings] == ["a"]
    assert without.left_out == {"tree": 1, SILENCE_LABEL: 1}
    labels = ["low_tone", UNKNOWN_LABEL, SILENCE_LABEL]
    other = write_tones(tmp_path / "other", labels=labels, triggers={"low_tone": {}})
    found = labelled_clips(other, words, sounds=False)
    assert [(r.path.name, t) for r, t in zip(found.recordings, found.targets, strict=True)] == [
        ("a", (0,)),
        ("b", (1,)),
        ("e", (2,)),
    ]
    assert found.left_out == {}


def test_tones_are_named_and_what_cannot_be_read_is_listed(
    tone_bundle: Bundle, tone_clips: list[Recording], tmp_path: Path
) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "short.wav", np.zeros(200), 16000)
    bad = ["empty.wav", "text.wav", "short.wav", "missing.wav"]
    clips = tone_clips + [Recording(tmp_path / name, "keyword", "low_tone") for name in bad]
    done: list[int] = []
    found = evaluate_clips(tone_bundle, clips, samples=50, progress=done.append)
    assert sum(done) == count_clips(tone_bundle, clips) == len(clips)
    assert found.classification is not None
    assert found.classification.accuracy.value == 1
    assert found.classification.evaluation.num_clips == len(tone_clips)
    assert found.tagging is None
    assert [Path(file).name for file, _ in found.unreadable] == bad
    assert "shorter than one hop" in found.unreadable[2][1]
    assert all("\n" not in reason for _, reason in found.unreadable)


def test_samples_that_are_no_numbers_are_silence_as_in_a_stream(
    tone_bundle: Bundle, tmp_path: Path, tone_audio: Audio
) -> None:
    samples = tone_audio(1.0, (0.2, 1.0, HIGH_HZ))
    samples[100:200] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    found = evaluate_clips(tone_bundle, [Recording(tmp_path / "nan.wav", "keyword", "high_tone")])
    assert found.classification is not None
    assert found.classification.accuracy.value == 1


@pytest.mark.parametrize("label", ["tree", ""])
def test_no_clip_of_the_bundle_is_one_clear_line(tone_bundle: Bundle, label: str) -> None:
    with pytest.raises(SsastEdgeError, match="no clip has a label of tones") as caught:
        evaluate_clips(tone_bundle, [Recording(Path("x.wav"), "keyword", label)])
    assert "low_tone, high_tone, other" in str(caught.value)


def test_no_readable_clip_is_one_clear_line(tone_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SsastEdgeError, match="none of 1 clips could be scored.*x.wav"):
        evaluate_clips(tone_bundle, [Recording(tmp_path / "x.wav", "keyword", "low_tone")])


def test_a_label_to_compete_that_the_bundle_lacks_is_refused(
    tone_bundle: Bundle, tone_clips: list[Recording]
) -> None:
    with pytest.raises(SsastEdgeError, match="'tree', known: low_tone"):
        evaluate_clips(tone_bundle, tone_clips, labels=["tree"])


def classified(truth: list[int], named: list[int], **options: Any) -> Classification:
    labels = ("go", "stop", UNKNOWN_LABEL, SILENCE_LABEL)
    return evaluate_classification(*tables(labels, truth, named), **options)


def test_unknown_and_silence_are_told_apart_and_together() -> None:
    truth = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
    named = [0, 0, 1, 1, 1, 2, 0, 0, 0, 3]
    found = classified(truth, named, samples=200)
    shares = {name: estimate.value for name, estimate in found.parts.items()}
    assert shares == pytest.approx({"keywords": 0.8, UNKNOWN_LABEL: 0.25, SILENCE_LABEL: 1.0})
    assert found.accuracy.value == pytest.approx(0.6)
    assert found.canonical.value == pytest.approx((0.8 + 0.1 * 0.25 + 0.1 * 1.0) / 1.2)
    assert found.canonical.interval.low < found.canonical.value < found.canonical.interval.high
    no_silence = classified(truth[:-1], named[:-1], samples=50)
    assert math.isnan(no_silence.canonical.value)
    assert SILENCE_LABEL not in no_silence.parts


def test_the_interval_is_that_of_its_seed_and_drawn_by_speaker() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=60).tolist()
    named = [t if speaker % 2 else 1 - t for speaker, t in zip(np.arange(60) // 3, truth)]  # noqa: B905
    one, same, other = (classified(truth, named, samples=200, seed=seed) for seed in (1, 1, 2))
    assert one.accuracy == same.accuracy
    assert one.accuracy.interval != other.accuracy.interval
    assert one.evaluation.num_units == 20
    width = one.accuracy.interval.high - one.accuracy.interval.low
    assert width > 0.35  # of 20 speakers that are all right or all wrong; of 60 clips 0.25


def test_sections_say_the_same_in_html_markdown_and_json(
    tone_bundle: Bundle, tone_clips: list[Recording], tmp_path: Path
) -> None:
    wrong = Recording(tone_clips[0].path, "keyword", "high_tone", speaker="<script>")
    lost = Recording(tmp_path / "<b>|.wav", "keyword", "low_tone")
    clips = [*tone_clips, wrong, lost, Recording(tmp_path, "keyword", "<i>tree|")]
    results = [evaluate_clips(tone_bundle, clips, samples=50, name=n) for n in ("one", "two|<")]
    (section,) = clip_sections(results)
    assert section.key == "classification"
    page = ElementTree.fromstring(f"<main>{section.html}</main>")
    assert len(page.findall(".//svg")) == 2
    for text in (section.html, section.markdown):
        assert "88.9 %" in text
        assert "low_tone as" not in text
        assert "high_tone as low_tone 1" in text
    assert "<i>" not in section.html
    assert "<b>" not in section.html
    assert "two\\|<" in section.markdown
    assert "+0.0 (+0.0 to +0.0) points" in section.markdown
    kept = json.loads(json.dumps(section.json, allow_nan=False))
    assert [one["bundle"] for one in kept] == ["one", "two|<"]
    assert kept[0]["evaluation"]["metrics"]["accuracy"]["value"] == pytest.approx(8 / 9, abs=1e-6)


def test_the_chart_of_confusions_shows_every_count_that_has_room() -> None:
    counts = np.array([[5, 2, 0], [0, 7, 0], [0, 0, 0]])
    picture = ElementTree.fromstring(confusion_chart(counts, ["a", "b & c", "never"]))
    texts = [element.text for element in picture.iter() if element.tag == "text"]
    assert {"a", "b & c", "5", "2", "7"} <= set(texts)
    assert "never" not in texts
    assert confusion_chart(np.eye(60), [str(i) for i in range(60)]) == ""
    assert confusion_chart(np.zeros((2, 2)), ["a", "b"]) == ""


def test_the_shipped_bundle_names_the_words_of_the_demo(tmp_path: Path) -> None:
    import ssast_edge
    from ssast_edge.audio import read_audio

    demo = Path(ssast_edge.__file__).parent / "demo"
    samples = read_audio(demo / "demo.ogg")
    clips = []
    for number, word in enumerate(json.loads((demo / "demo.json").read_text("utf-8"))["words"]):
        if word["keyword"]:
            path = tmp_path / f"{number}.wav"
            cut = slice(int(16000 * (word["start_s"] - 0.5)), int(16000 * (word["end_s"] + 0.3)))
            soundfile.write(path, samples[cut], 16000)
            clips.append(Recording(path, "keyword", word["keyword"]))
    found = evaluate_clips(load_bundle("wake-words"), clips, samples=50)
    assert found.classification is not None
    assert found.classification.evaluation.num_clips == len(clips) >= 6
    assert found.classification.accuracy.value > 0.8
