"""`ssast-edge eval` from recordings to a report, with a real bundle and a real other program."""

import json
import sys
import wave
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.cli import main
from ssast_edge.commands import evaluating

FloatArray = NDArray[np.float32]
RATE = 16_000
LOW_HZ, HIGH_HZ = 440.0, 3000.0

# Fires "low tone" wherever a second of the WAV is loud at all, whatever is in it.
OTHER_PROGRAM = """
import json, sys, wave
import numpy as np
with wave.open(sys.argv[1]) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
print(json.dumps({"settings": [0.01, 0.5]}))
for second in range(len(samples) // 16000):
    if np.sqrt(np.mean(samples[16000 * second:16000 * (second + 1)] ** 2)) > 0.01:
        print(json.dumps({"setting": 0.01, "label": "low_tone", "time_s": second + 1.0}))
"""


@pytest.fixture(scope="module")
def recordings(
    tmp_path_factory: pytest.TempPathFactory, tone_audio: Callable[..., FloatArray]
) -> Path:
    """Tones for keywords, one of them as quiet as the noise, other tones as speech, noise."""
    folder = tmp_path_factory.mktemp("recordings")
    tones: dict[str, list[tuple[float, float, float]]] = {
        "keywords/low tone/a.wav": [(0.6, 1.2, LOW_HZ)],
        "keywords/low tone/b.wav": [(0.5, 1.1, LOW_HZ)],
        "keywords/high_tone/c.wav": [(0.7, 1.3, HIGH_HZ)],
        "keywords/high_tone/lost.wav": [],
        "speech/d.wav": [(0.2, 1.0, 1200.0)],
        "speech/like-low.wav": [(0.4, 1.0, LOW_HZ)],
        "sounds/bell/e.wav": [(0.2, 0.4, 7000.0)],
    }
    for name, parts in tones.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone_audio(2.0, *parts), RATE)
    (folder / "noise").mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(folder / "noise" / "n.wav", 0.1 * rng.standard_normal(3 * RATE), RATE)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def out(recordings: Path, tone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report; not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    ran = run(
        tone_folder, "--data", recordings, "--out", folder, "--condition", "clean",
        "--condition", "0 dB",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_words_false_accepts_and_misses_are_those_of_the_recordings(out: Path) -> None:
    report = report_of(out)
    assert report["schema"] == "ssast-edge eval 1"
    assert report["data"]["words"] == {"low tone": 2, "high_tone": 2}
    assert report["data"]["recordings"] == {"keyword": 4, "speech": 2, "sound": 1, "noise": 1}
    clean = report["results"][0]
    assert (clean["detector"], clean["condition"]) == ("tones", "clean")
    assert (clean["at"]["words"], clean["at"]["missed"]) == (4, 1)
    (miss,) = clean["misses"]
    assert (miss["label"], miss["file"]) == ("high_tone", "high_tone/lost.wav")
    assert miss["best"] < 0.5
    (false_accept,) = clean["false_accepts"]
    assert false_accept["label"] == "low_tone"
    assert false_accept["playing"]["file"] == "speech/like-low.wav"
    assert 0.4 < false_accept["at_s"] < 1.3
    assert clean["confusables"] == [
        {"label": "low_tone", "playing": "speech (speech/like-low.wav)", "count": 1}
    ]


def test_intervals_and_what_the_hours_show_are_told(out: Path) -> None:
    report = report_of(out)
    hours = report["data"]["hours"]
    for result in report["results"]:
        for entry in result["operating"]:
            point = entry["point"]
            if point is None:
                assert entry["says"] == "no setting gives so few"
                continue
            assert point["false_accepts_per_hour"] <= entry["per_hour"]
            assert f"in {hours:.2f} h: below" in entry["says"]
            assert point["below_per_hour_at_95"] >= 2.99 / hours
            low, high = point["miss_rate_95"]
            assert low <= point["miss_rate"] <= high
        assert [entry["per_hour"] for entry in result["operating"]] == [0.0, 0.1, 0.5, 1.0]


def test_the_parts_of_a_delay_add_up(out: Path) -> None:
    for result in report_of(out)["results"]:
        for delay in (result["delay"], *result["delay_by_keyword"].values()):
            if delay["words"] == 1:
                parts = sum(delay[stage]["p50"] for stage in ("hop_wait", "recognition", "trigger"))
                assert parts == pytest.approx(delay["total"]["p50"], abs=2e-4)
                assert 0 <= delay["hop_wait"]["p50"] <= 0.041
                assert delay["trigger"]["p50"] >= 0.04 - 1e-6, "two hits are a hop apart"
        assert result["infer_ms"]["p99"] >= result["infer_ms"]["p50"] > 0


def test_snippets_hold_the_sound_of_the_moment(out: Path) -> None:
    clean = report_of(out)["results"][0]
    (false_accept,) = clean["false_accepts"]
    with wave.open(str(out / false_accept["snippet"])) as file:
        assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    assert len(samples) == pytest.approx(2 * RATE, abs=2)
    spectrum = np.abs(np.fft.rfft(samples))
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    assert hertz[np.argmax(spectrum)] == pytest.approx(LOW_HZ, abs=5)
    named = {
        one["snippet"]
        for result in report_of(out)["results"]
        for one in (*result["false_accepts"], *result["misses"])
    }
    assert {f"snippets/{path.name}" for path in (out / "snippets").iterdir()} == named


def test_the_page_is_whole_and_needs_nothing_but_its_snippets(out: Path) -> None:
    class Page(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.sources: list[str] = []
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "path", "line"):
                self.open.append(tag)
            self.found.append(tag)
            self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.found
    assert page.found.count("svg") == 4, "two conditions, two keywords"
    assert page.sources
    assert all((out / source).is_file() for source in page.sources)
    for told in ("Clopper-Pearson", "fires when the mean score of the last 80 ms", "mu-law"):
        assert (told in text) == (told != "mu-law")
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert "| tones | clean | 1 of 4 |" in markdown


def test_a_second_run_hears_nothing_again_and_says_the_same(
    out: Path, recordings: Path, tone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = report_of(out)
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "scores").iterdir()}
    ran = run(
        tone_folder, "--data", recordings, "--out", out, "--condition", "clean",
        "--condition", "0dB",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert "tones over" not in ran.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (out / "scores").iterdir()} == kept
    after = report_of(out)
    assert after["results"] == before["results"]


def test_a_run_that_was_stopped_goes_on_with_the_condition_that_is_missing(
    recordings: Path, tone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        tone_folder, "--data", recordings, "--out", tmp_path / "out", "--condition", "clean",
        "--condition", "telephone",
    )  # fmt: skip
    real = evaluating.progress

    def stopping(title: str, total: float) -> Any:
        if title.startswith("telephone"):
            raise KeyboardInterrupt
        return real(title, total)

    monkeypatch.setattr(evaluating, "progress", stopping)
    ran = run(*arguments)
    assert ran.exit_code == 1
    assert "stopped: the same command goes on from here" in ran.stderr
    assert not (tmp_path / "out" / "report.json").exists()
    monkeypatch.setattr(evaluating, "progress", real)
    ran = run(*arguments)
    assert ran.exit_code == 0, ran.output
    assert "clean: tones" not in ran.stderr
    assert "telephone: tones" in ran.stderr


def test_scores_of_another_seed_or_other_weights_are_not_taken(
    recordings: Path, tone_folder: Path, write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    options = ("--data", recordings, "--out", tmp_path / "out", "--condition", "clean")
    assert run(tone_folder, *options).exit_code == 0
    assert "clean: tones" in run(tone_folder, *options, "--seed", 1).stderr
    slower = write_tones(tmp_path / "slower", hop_ms=80).path
    assert "clean: tones" in run(slower, *options).stderr
    # Thresholds change no score.
    triggers = {"low_tone": {"threshold": 0.9, "smoothing_ms": 0, "min_hits": 1, "rearm": 0.5,
                             "refractory_s": 1.0}}  # fmt: skip
    stricter = write_tones(tmp_path / "stricter", triggers=triggers).path
    assert "clean: tones" not in run(stricter, *options).stderr


def test_bundles_and_another_program_hear_the_same_track(
    recordings: Path, tone_folder: Path, write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    program = tmp_path / "other.py"
    program.write_text(OTHER_PROGRAM)
    second = write_tones(tmp_path / "again", hop_ms=80).path
    ran = run(
        tone_folder, second, "--data", recordings, "--out", tmp_path / "out", "--condition",
        "clean", "--external", f"loud={sys.executable} {program}", "--clips",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    report = report_of(tmp_path / "out")
    names = [detector["name"] for detector in report["detectors"]]
    assert names == [f"tones ({tone_folder.name})", "tones (again)", "loud"]
    loud = report["results"][2]
    assert [point["setting"] for point in loud["curve"]] == [0.01, 0.5]
    eager, strict = loud["curve"]
    assert eager["missed"] <= 2
    assert (strict["missed"], strict["false_accepts"]) == (4, 0)
    assert loud["infer_ms"] is None
    assert loud["cpu_s_per_hour"] > 0
    assert report["results"][0]["at"]["words"] == loud["at"]["words"] == 4
    assert len(report["sections"]["classification"]) == 2, "the clips by themselves"


def test_a_sound_that_a_bundle_knows_is_to_be_found_too(
    recordings: Path, write_tones: Callable[..., Bundle], tone_manifest: dict[str, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    data = tmp_path / "m.csv"
    data.write_text(
        "path,kind,label\n"
        f"{recordings}/keywords/low tone/a.wav,keyword,low tone\n"
        f"{recordings}/keywords/high_tone/c.wav,sound,high_tone\n"
        f"{recordings}/speech/d.wav,speech,\n"
    )
    bundle = write_tones(tmp_path / "both").path
    ran = run(bundle, "--data", data, "--out", tmp_path / "out", "--condition", "clean")
    assert ran.exit_code == 0, ran.output
    (result,) = report_of(tmp_path / "out")["results"]
    assert (result["at"]["words"], result["at"]["missed"]) == (2, 0)
    assert result["at"]["false_accepts"] == 0
    assert result["delay"]["words"] == 1, "a sound has no end that a delay could be told from"


def test_what_is_odd_is_told_and_does_not_stop_it(
    recordings: Path, tone_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    data = tmp_path / "m.csv"
    data.write_text(
        "path,kind,label\n"
        f"{recordings}/keywords/low tone/a.wav,keyword,low-tone\n"
        f"{recordings}/keywords/high_tone/c.wav,keyword,siren\n"
        f"{recordings}/speech/d.wav,speech,\nbroken.wav,speech,\nmissing.wav,speech,\n"
    )
    ran = run(tone_folder, "--data", data, "--out", tmp_path / "out", "--condition", "clean")
    assert ran.exit_code == 0, ran.output
    report = report_of(tmp_path / "out")
    told = "\n".join(report["warnings"])
    assert "no recording of high_tone: only false accepts of it are counted" in told
    assert "does not know siren: played as speech that must not fire" in told
    assert "2 recordings cannot be read, the first:" in told
    assert all(warning in ran.stderr for warning in report["warnings"])
    assert [Path(one["file"]).name for one in report["data"]["unreadable"]] == [
        "broken.wav",
        "missing.wav",
    ]
    (result,) = report["results"]
    assert result["at"]["words"] == 1
    assert [one["playing"]["label"] for one in result["false_accepts"]] == ["siren"]


def test_hours_cut_the_background_and_never_the_words(
    recordings: Path, tone_folder: Path, tmp_path: Path
) -> None:
    options = (tone_folder, "--data", recordings, "--condition", "clean", "--out", tmp_path / "out")
    assert run(*options, "--hours", 0.0045).exit_code == 0
    report = report_of(tmp_path / "out")
    assert report["data"]["hours"] < 0.006
    assert sum(report["data"]["words"].values()) == 4
    ran = run(*options, "--hours", 0.001)
    assert ran.exit_code == 1
    assert "the 4 keyword recordings alone last" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give a BUNDLE, or --external NAME=COMMAND"),
        (("BUNDLE", "--condition", "loud"), "unknown condition 'loud'"),
        (("BUNDLE", "--condition", "10dB", "--data", "QUIET"), "10dB needs recordings of kind"),
        (("BUNDLE", "--data", "none.csv"), "none.csv: cannot be read"),
        (("BUNDLE", "--data", "WORDS"), "has no speech or sound without a keyword"),
        (("BUNDLE", "--data", "OTHER"), "the data has no recording of high_tone, low_tone"),
        (("no-such-bundle",), "no bundle 'no-such-bundle'"),
        (("BUNDLE", "--external", "program"), "--external wants NAME=COMMAND, got 'program'"),
        (("BUNDLE", "--external", "a=b", "--external", "a=c"), "a is given twice"),
        (("BUNDLE", "--external", "x=/no/such/program"), "no program '/no/such/program'"),
        (("BUNDLE", "BUNDLE"), "is given twice"),
        (("BUNDLE", "--hours", "nan"), "wanted a number"),
        (("BUNDLE", "--split", "val"), "a folder has no splits"),
        (("BUNDLE", "--out", "FILE"), "is a file"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], told: str, recordings: Path, tone_folder: Path, tmp_path: Path
) -> None:
    header = "path,kind,label\n"
    word = f"{recordings}/keywords/low tone/a.wav,keyword,low_tone\n"
    speech = f"{recordings}/speech/d.wav,speech,\n"
    files = {
        "QUIET": header + word + speech,
        "WORDS": header + word,
        "OTHER": header + word.replace("low_tone", "siren") + speech,
        "FILE": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    names = {"BUNDLE": str(tone_folder)} | {name: str(tmp_path / name) for name in files}
    given = [names.get(argument, argument) for argument in arguments]
    given += [] if "--data" in given else ["--data", str(recordings)]
    given += [] if "--out" in given else ["--out", str(tmp_path / "out")]
    given += [] if "--condition" in given else ["--condition", "clean"]
    ran = run(*given)
    assert ran.exit_code in (1, 2)
    assert isinstance(ran.exception, SystemExit)
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert told in last
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_shipped_bundle_is_measured_on_the_demo_track(tmp_path: Path) -> None:
    folder = Path(evaluating.__file__).parents[1] / "demo"
    samples, rate = soundfile.read(folder / "demo.ogg", dtype="float32")
    said = json.loads((folder / "demo.json").read_text(encoding="utf-8"))["words"]
    rows = ["path,kind,label,text,start_s,end_s"]
    for number, one in enumerate(said):
        first, last = one["start_s"] - 0.4, one["end_s"] + 0.4
        soundfile.write(
            tmp_path / f"{number}.wav", samples[round(first * rate) : round(last * rate)], rate
        )
        kind = "keyword" if one["keyword"] else "speech"
        word = f"{one['keyword'] or ''},{one['text']},0.4,{one['end_s'] - first:.3f}"
        rows.append(f"{number}.wav,{kind},{word}")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    ran = run(
        "wake-words", "--data", tmp_path / "m.csv", "--out", tmp_path / "out", "--condition",
        "clean",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    (result,) = report_of(tmp_path / "out")["results"]
    assert result["at"]["words"] == sum(one["keyword"] is not None for one in said)
    assert result["at"]["missed"] < result["at"]["words"] / 2
    assert result["at"]["false_accepts"] <= 2
    assert -0.5 < result["delay"]["total"]["p50"] < 0.5
