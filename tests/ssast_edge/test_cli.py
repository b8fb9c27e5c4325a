"""The command line, on the tone bundle: real files, real pipes, real signals."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from ssast_edge.audio import Block
from ssast_edge.bundle import Bundle, default_bundles
from ssast_edge.cli import COMMANDS, main
from ssast_edge.commands.demo import Word, compare, table
from ssast_edge.commands.interrupts import ended_by_signal, held_signals
from ssast_edge.commands.listening import Summary, listen_to
from ssast_edge.commands.source import PacedRecording
from ssast_edge.errors import AudioError
from ssast_edge.spotter import Detection, Spotter

FloatArray = NDArray[np.float32]

ROOT = Path(__file__).parents[2]
RATE = 16_000
LOW_HZ, HIGH_HZ = 440.0, 3000.0
TIMEOUT_S = 30

SUMMARY_KEYS = {
    "type",
    "audio_s",
    "detections",
    "hops",
    "skipped_hops",
    "overflows",
    "dropped_s",
    "rtf",
    "infer_ms",
}


@pytest.fixture(scope="module")
def samples(tone_audio: Callable[..., FloatArray]) -> FloatArray:
    """Low, high, low."""
    return tone_audio(4.0, (0.5, 1.0, LOW_HZ), (1.8, 2.2, HIGH_HZ), (3.0, 3.5, LOW_HZ))


@pytest.fixture(scope="module")
def recording(samples: FloatArray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples as a 16-bit WAV."""
    path = tmp_path_factory.mktemp("audio") / "tones.wav"
    _write_wav(path, _pcm(samples))
    return path


@pytest.fixture
def tones(tone_folder: Path) -> list[str]:
    """The options that choose the tone bundle."""
    return ["--bundle", str(tone_folder)]


def test_help_lists_every_command() -> None:
    shown = _invoke("--help").output
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = _invoke(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {command} ")


def test_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        wanted = version("ssast-edge")
    except PackageNotFoundError:
        pytest.skip("ssast-edge is not installed here")
    assert _invoke("--version").output == f"main {wanted}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["listen", "--input", "absent.wav"], "absent.wav"),
        (["listen", "--input", "two\nlines.wav"], "two lines.wav"),
        (["listen", "--bundle", "no-such-bundle"], "no bundle 'no-such-bundle'"),
        (["listen", "--input", "{file}", "--keyword", "robin"], "unknown keyword 'robin'"),
        (["listen", "--input", "{file}", "--threshold", "1.5"], "between 0 and 1, got 1.5"),
        (["listen", "--input", "{file}", "--threshold", "nan"], "between 0 and 1, got nan"),
        (["listen", "--input", "{file}", "--threshold", "low_tone=x"], "got 'low_tone=x'"),
        (["listen", "--input", "{file}", "--threshold", "=0.5"], "got '=0.5'"),
        (["listen", "--input", "{file}", "--threshold", "robin=0.5"], "unknown keyword 'robin'"),
        (["listen", "--input", "{file}", "--hop-ms", "15"], "multiple of 10 ms, got 15"),
        (["listen", "--input", "{file}", "--hop-ms", "0"], "0 is not in the range"),
        (["listen", "--input", "{file}", "--channel", "3"], "channel"),
        (["listen", "--input", "{file}", "--device", "0"], "give one of them"),
        (["listen", "--input", "{not_audio}"], "not_audio.txt"),
        (["listen", "--no-such-option"], "No such option"),
        (["listen", "--device", "no such microphone"], "microphone"),
        (["listen", "--realtime"], "give it with --input"),
        (["tag"], "Missing argument"),
        (["tag", "--audacity", "{file}", "{file}"], "give one FILE"),
        (["info", "no-such-bundle"], "no bundle 'no-such-bundle'"),
        (["no-such-command"], "No such command"),
    ],
)
def test_a_mistake_is_one_line_and_a_status(
    arguments: list[str], said: str, tones: list[str], recording: Path, tmp_path: Path
) -> None:
    not_audio = tmp_path / "not_audio.txt"
    not_audio.write_text("not audio")
    names = {"file": str(recording), "not_audio": str(not_audio)}
    words = [word.format(**names) for word in arguments]
    if "--input" in words or "--device" in words or words[0] == "tag":
        words += tones
    result = _invoke(*words)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


def test_json_lines_have_their_keys(tones: list[str], recording: Path) -> None:
    *detections, summary = _listen(*tones, "--input", str(recording))
    assert [set(line) for line in detections] == [{"type", "label", "time_s", "score"}] * 3
    assert [line["label"] for line in detections] == ["low_tone", "high_tone", "low_tone"]
    assert set(summary) == SUMMARY_KEYS
    assert summary["type"] == "summary"
    assert set(summary["infer_ms"]) == {"p50", "p95", "p99", "max"}
    assert summary["audio_s"] == 4.0
    assert summary["detections"] == 3
    assert summary["hops"] == 99  # of 40 ms
    assert (summary["skipped_hops"], summary["overflows"], summary["dropped_s"]) == (0, 0, 0)
    assert 0 < summary["rtf"] < 1


def test_times_are_those_of_the_library(
    tones: list[str], recording: Path, samples: FloatArray, tone_bundle: Bundle
) -> None:
    heard = [line for line in _listen(*tones, "--input", str(recording))[:-1]]
    pushed = Spotter(tone_bundle).push(_pcm(samples).astype(np.float32) / 32768)
    assert [(line["label"], line["time_s"]) for line in heard] == [
        (detection.label, pytest.approx(detection.time_s)) for detection in pushed
    ]
    assert [line["score"] for line in heard] == [
        pytest.approx(detection.score, abs=1e-4) for detection in pushed
    ]


@pytest.mark.parametrize("keyword", ["high_tone", "high-tone", "High tone"])
def test_only_the_keyword_asked_for_fires(keyword: str, tones: list[str], recording: Path) -> None:
    lines = _listen(*tones, "--input", str(recording), "--keyword", keyword)
    assert [line["label"] for line in lines[:-1]] == ["high_tone"]


@pytest.mark.parametrize(
    ("given", "heard"),
    [
        (["0.9999"], set()),
        (["low_tone=0.9999"], {"high_tone"}),
        (["low-tone=0.9999", "0.3"], {"high_tone"}),
        (["0.9999", "high tone=0.5"], {"high_tone"}),
    ],
)
def test_a_threshold_is_for_all_or_for_one(
    given: list[str], heard: set[str], tones: list[str], recording: Path
) -> None:
    options = [word for threshold in given for word in ("--threshold", threshold)]
    lines = _listen(*tones, "--input", str(recording), *options)
    assert {line["label"] for line in lines[:-1]} == heard


def test_a_longer_hop_means_fewer_inferences(tones: list[str], recording: Path) -> None:
    assert _listen(*tones, "--input", str(recording), "--hop-ms", "200")[-1]["hops"] == 19


def test_plain_lines_end_with_a_summary(tones: list[str], recording: Path) -> None:
    *lines, summary = _invoke("listen", *tones, "--input", str(recording)).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["low_tone", "high_tone", "low_tone"]
    assert re.fullmatch(r"00:0\d\.\d\d  low_tone  0\.\d\d", lines[0])
    assert summary.startswith("3 detections in 00:04.00 of audio")


@pytest.mark.parametrize(
    ("rate", "channels", "with_header"),
    [(16_000, 1, False), (48_000, 2, False), (44_100, 2, True), (32_000, 1, True)],
)
def test_standard_input_is_raw_pcm_or_a_wav(
    rate: int,
    channels: int,
    with_header: bool,
    tones: list[str],
    samples: FloatArray,
    tmp_path: Path,
) -> None:
    times = np.arange(0, 4, 1 / rate)
    resampled = np.interp(times, np.arange(len(samples)) / RATE, samples)
    pcm = np.repeat(_pcm(resampled.astype(np.float32)), channels)
    _write_wav(tmp_path / "piped.wav", pcm, rate=rate, channels=channels)
    stdin = (tmp_path / "piped.wav").read_bytes() if with_header else pcm.tobytes()
    raw = [] if with_header else ["--input-rate", str(rate), "--input-channels", str(channels)]
    result = _invoke("listen", "--json", *tones, "--input", "-", *raw, stdin=stdin)
    heard = [json.loads(line) for line in result.stdout.splitlines()]
    assert heard[0]["label"] == "low_tone"
    assert heard[0]["time_s"] == pytest.approx(0.6, abs=0.15)
    assert heard[-1]["audio_s"] == pytest.approx(4.0, abs=0.02)


@pytest.mark.parametrize("stdin", [b"", b"RIFF\xff\xff\xff\xffWAVE", b"OggS and so on"])
def test_no_audio_on_standard_input_is_one_line(stdin: bytes, tones: list[str]) -> None:
    result = _invoke("listen", *tones, "--input", "-", stdin=stdin)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: the audio stream ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("stdin", [b"\x01", b"\x01\x00", b"RIFF"])
def test_next_to_nothing_on_standard_input_is_no_error(stdin: bytes, tones: list[str]) -> None:
    result = _invoke("listen", "--json", *tones, "--input", "-", stdin=stdin)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["hops"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_listening_with_the_summary(
    number: signal.Signals, tones: list[str], samples: FloatArray
) -> None:
    with _start("listen", "--json", *tones, "--input", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_pcm(samples).tobytes())
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        *_, last = process.stdout.read().splitlines()
        assert first["type"] == "detection"
        assert json.loads(last)["type"] == "summary"
        assert process.wait(TIMEOUT_S) == 0


def test_a_reader_that_leaves_ends_it_quietly(tones: list[str], samples: FloatArray) -> None:
    with _start("listen", "--json", *tones, "--input", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(_pcm(samples).tobytes())
        process.stdout.readline()
        process.stdout.close()
        with suppress(BrokenPipeError):  # it may be gone already
            process.stdin.write(_pcm(samples).tobytes())
        assert process.wait(TIMEOUT_S) != 0
        assert process.stderr.read() == b""


def test_standard_input_that_is_closed_is_one_line(tones: list[str]) -> None:
    command = shlex.join(_command("listen", *tones, "--input", "-"))
    shell = ["sh", "-c", f"{command} <&-"]
    ran = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ran.returncode == 1
    assert ran.stderr == "Error: standard input has no audio: pipe a WAV or raw PCM into it\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", [["listen", "--json", "--input"], ["tag", "--csv"], ["tag"]])
def test_a_full_disk_is_one_line(command: list[str], tones: list[str], recording: Path) -> None:
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            _command(*command, str(recording), *tones),
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert ran.returncode == 1
    assert ran.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("style", [[], ["--json"], ["--csv"]])
def test_a_name_that_is_not_utf_8_is_escaped(
    style: list[str], tones: list[str], recording: Path, tmp_path: Path
) -> None:
    odd = bytes(tmp_path) + b"/\xff.wav"
    Path(os.fsdecode(odd)).symlink_to(recording)
    ran = subprocess.run(
        [*map(os.fsencode, _command("tag", *style, *tones)), odd],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert r"\udcff.wav" in ran.stdout


def test_ctrl_c_while_a_library_loads_waits_until_it_has() -> None:
    passed = []

    def load() -> None:
        with held_signals():
            signal.raise_signal(signal.SIGINT)
            passed.append("loaded")
        passed.append("listening")

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert passed == ["loaded"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_audio_ends_it_quietly(number: signal.Signals) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with ended_by_signal(), held_signals():
            signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert signal.getsignal(signal.SIGTERM) == before


def test_realtime_takes_as_long_as_the_audio(tones: list[str], tmp_path: Path) -> None:
    _write_wav(tmp_path / "short.wav", np.zeros(RATE // 2, np.int16))
    began = time.monotonic()
    summary = _listen(*tones, "--input", str(tmp_path / "short.wav"), "--realtime")[-1]
    assert time.monotonic() - began >= 0.5
    assert summary["audio_s"] == 0.5


def test_a_pipe_that_is_late_is_no_backlog() -> None:
    def late() -> Iterator[Block]:
        for index in range(6):
            time.sleep(0.3 if index in (0, 3) else 0)
            yield Block(np.zeros(160, np.float32), index * 0.01)

    source = PacedRecording("pipe", late(), RATE)
    assert [source.backlog_s < 0.1 for _ in source] == [True] * 6


def test_a_slow_reader_of_a_paced_recording_has_a_backlog() -> None:
    blocks = [Block(np.zeros(160, np.float32), index * 0.01) for index in range(4)]
    source = PacedRecording("file", blocks, RATE)
    backlogs_s = []
    for _ in source:
        backlogs_s.append(source.backlog_s)
        time.sleep(0.1)
    assert backlogs_s[0] < 0.1
    assert backlogs_s[-1] > 0.2


def test_a_backlog_that_never_shrinks_is_heard_once_a_second(tone_bundle: Bundle) -> None:
    blocks = [Block(np.zeros(1600, np.float32), index * 0.1) for index in range(40)]
    summary = listen_to(_Source(blocks, backlog_s=[5.0] * 40), Spotter(tone_bundle), _Output())
    assert (summary.hops, summary.hops + summary.skipped_hops) == (4, 99)


def test_a_device_that_hands_over_unevenly_skips_no_short_hop(tone_bundle: Bundle) -> None:
    blocks = [Block(np.zeros(1280, np.float32), index * 0.08) for index in range(20)]
    source = _Source(blocks, backlog_s=[0.16, 0.08, 0.0, 0.08] * 5)
    assert listen_to(source, Spotter(tone_bundle, hop_ms=10), _Output()).skipped_hops == 0


def test_backlog_makes_hops_skipped_but_loses_no_audio(tone_bundle: Bundle) -> None:
    blocks = [Block(np.zeros(1600, np.float32), index * 0.1) for index in range(40)]
    source = _Source(blocks, backlog_s=[0.0] * 10 + [1.0 - 0.1 * i for i in range(11)] + [0.0] * 19)
    output = _Output()
    summary = listen_to(source, Spotter(tone_bundle), output)
    assert summary.audio_s == pytest.approx(4.0)
    assert summary.hops + summary.skipped_hops == 99
    assert 20 <= summary.skipped_hops <= 30
    assert output.summaries == [summary]


def test_a_gap_moves_the_clock_and_is_reported(tone_bundle: Bundle, samples: FloatArray) -> None:
    whole = Spotter(tone_bundle).push(samples)
    cut = slice(round(2.4 * RATE), round(2.9 * RATE))  # silence before the third tone
    blocks = [
        Block(samples[: cut.start], 0.0),
        Block(samples[cut.stop :], 2.9, dropped_s=0.5),
    ]
    output = _Output()
    summary = listen_to(_Source(blocks, overflows=2), Spotter(tone_bundle), output)
    assert [d.label for d in output.detections] == [d.label for d in whole]
    assert output.detections[2].time_s == pytest.approx(whole[2].time_s, abs=0.1)
    assert (summary.audio_s, summary.dropped_s) == (pytest.approx(4.0), pytest.approx(0.5))
    assert summary.overflows == 2
    assert output.troubles == [
        "00:00.00  lost 0.00 s of audio, 2 overflows in the audio device",
        "00:02.90  lost 0.50 s of audio",
    ]


def test_an_audio_device_that_goes_leaves_a_summary(tone_bundle: Bundle) -> None:
    block = Block(np.zeros(1600, np.float32), 0.0)
    output = _Output()
    with pytest.raises(AudioError, match="has gone"):
        listen_to(_Source([block], fails=True), Spotter(tone_bundle), output)
    assert [summary.audio_s for summary in output.summaries] == [0.1]


def test_the_table_of_tag_has_the_highest_score_first(tones: list[str], recording: Path) -> None:
    title, header, *rows = _invoke("tag", *tones, str(recording)).stdout.splitlines()
    assert title == f"{recording}  00:04.00"
    assert header.split() == ["label", "max", "at", "mean", "over", "time"]
    assert {row.split()[0] for row in rows} == {"low_tone", "high_tone", "other"}
    highest = [float(row.split()[1]) for row in rows]
    assert highest == sorted(highest, reverse=True)


def test_json_of_tag_has_every_hop_and_then_the_whole(tones: list[str], recording: Path) -> None:
    result = _invoke("tag", "--json", *tones, str(recording))
    *hops, overall = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["type"] for line in hops} == {"scores"}
    assert len(hops) == overall["hops"] == 99
    assert [round(line["time_s"], 3) for line in hops[:2]] == [0.055, 0.095]
    assert overall["type"] == "overall"
    assert overall["audio_s"] == 4.0
    low = {line["time_s"]: line["scores"]["low_tone"] for line in hops}
    highest = overall["labels"]["low_tone"]
    assert highest["max"] == low[highest["max_time_s"]] == max(low.values())
    assert highest["mean"] == pytest.approx(np.mean(list(low.values())), abs=1e-3)


def test_csv_of_tag_is_one_table_for_all_files(tones: list[str], recording: Path) -> None:
    result = _invoke("tag", "--csv", *tones, str(recording), str(recording))
    header, *rows = result.stdout.splitlines()
    assert header == "file,time_s,low_tone,high_tone,other"
    assert len(rows) == 2 * 99
    assert rows[0].startswith(f"{recording},0.055,")


def test_audacity_labels_of_tag_lie_over_the_tones(tones: list[str], recording: Path) -> None:
    result = _invoke("tag", "--audacity", *tones, str(recording))
    labels = [line.split("\t") for line in result.stdout.splitlines()]
    assert [label for _, _, label in labels] == ["low_tone", "high_tone", "low_tone"]
    for (start, end, _), tone_s in zip(labels, [0.5, 1.8, 3.0], strict=True):
        assert tone_s < float(start) < float(end) < tone_s + 0.8


def test_a_bad_file_does_not_keep_tag_from_the_others(
    tones: list[str], recording: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF, but no more")
    result = _invoke("tag", "--json", *tones, str(recording), str(bad), str(recording))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "bad.wav" in result.stderr
    assert result.stdout.count('"overall"') == 2


def test_a_file_shorter_than_a_hop_has_no_scores(tones: list[str], tmp_path: Path) -> None:
    _write_wav(tmp_path / "click.wav", np.zeros(100, np.int16))
    assert "no scores" in _invoke("tag", *tones, str(tmp_path / "click.wav")).stdout
    result = _invoke("tag", "--json", *tones, str(tmp_path / "click.wav"))
    assert json.loads(result.stdout)["labels"] == {}


def test_info_names_labels_triggers_and_licences(tone_folder: Path) -> None:
    shown = _invoke("info", str(tone_folder)).stdout
    for text in (
        "tones 1.2.3",
        "low_tone, high_tone, other",
        "low_tone: fires at 0.5 (2 hits in a row, mean of 80 ms)",
        "CC0-1.0",
        "by hand",
    ):
        assert text in shown


def test_info_shows_no_control_characters(
    write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    write_tones(tmp_path / "tones", licence="\x1b[2JMIT\nor so")
    assert r"licence     \x1b[2JMIT or so" in _invoke("info", str(tmp_path / "tones")).stdout


def test_info_as_json_is_the_manifest(tone_folder: Path) -> None:
    shown = json.loads(_invoke("info", "--json", str(tone_folder)).stdout)
    manifest = json.loads((tone_folder / "bundle.json").read_text())
    assert shown == {"type": "bundle", "path": str(tone_folder), **manifest}


def test_demo_puts_each_detection_beside_what_was_said() -> None:
    words = [
        Word(text="alexa", keyword="alexa", kind="keyword", start_s=1.0, end_s=1.6),
        Word(text="elixir", keyword=None, kind="near-miss", start_s=3.0, end_s=3.5),
        Word(text="computer", keyword="computer", kind="keyword", start_s=5.0, end_s=5.6),
    ]
    heard = [
        Detection("alexa", 1.7, 0.9),
        Detection("alexa", 3.4, 0.6),
        Detection("jarvis", 9, 0.5),
    ]
    assert table(compare(words, heard)) == [
        "   time  said        heard",
        '  1.00s  "alexa"     alexa 0.90 at 1.70 s',
        '  3.00s  "elixir"    alexa 0.60 at 3.40 s (false: alexa)',
        '  5.00s  "computer"  - (missed)',
        "  9.00s  nothing     jarvis 0.50 at 9.00 s (false: jarvis)",
        "",
        "1 of 2 keywords heard, 2 false detections",
    ]


def test_a_word_said_twice_and_heard_once_is_found_once() -> None:
    words = [
        Word(text="alexa", keyword="alexa", kind="keyword", start_s=1.0, end_s=1.6),
        Word(text="alexa", keyword="alexa", kind="keyword", start_s=2.0, end_s=2.6),
    ]
    rows = compare(words, [Detection("alexa", 2.5, 0.9)])
    assert [row.is_found for row in rows] == [False, True]


@pytest.mark.skipif("wake-words" not in default_bundles(), reason="no bundle wake-words here")
def test_info_of_the_shipped_bundle_keeps_its_tables_for_json() -> None:
    lines = _invoke("info", "wake-words").stdout.splitlines()
    assert any(line.endswith("entries, see --json") for line in lines)
    assert not [line for line in lines if len(line) > 300]


@pytest.mark.skipif("wake-words" not in default_bundles(), reason="no bundle wake-words here")
def test_the_demo_hears_the_keywords_and_nothing_else() -> None:
    result = _invoke("demo")
    assert result.exit_code == 0
    verdict = re.search(r"(\d+) of (\d+) keywords heard, (\d+) false", result.stdout)
    assert verdict is not None
    found, asked, false = map(int, verdict.groups())
    assert asked - 1 <= found <= asked
    assert false == 0


class _Source:
    """Blocks as a device would give them."""

    name = "script"
    dropped_s = 0.0

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        backlog_s: Sequence[float] = (),
        overflows: int = 0,
        fails: bool = False,
    ) -> None:
        self.overflows = overflows
        self.backlog_s = 0.0
        self._blocks = blocks
        self._backlogs = backlog_s or [0.0] * len(blocks)
        self._fails = fails

    def __iter__(self) -> Iterator[Block]:
        for block, backlog_s in zip(self._blocks, self._backlogs, strict=True):
            self.backlog_s = backlog_s
            yield block
        if self._fails:
            raise AudioError("the microphone has gone")


class _Output:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.detections: list[Detection] = []
        self.troubles: list[str] = []
        self.summaries: list[Summary] = []

    def hop(self, time_s: float, spotter: Spotter) -> None: ...

    def audio(self, samples: FloatArray, spotter: Spotter, lost_s: float) -> None: ...

    def detection(self, detection: Detection) -> None:
        self.detections.append(detection)

    def trouble(self, message: str) -> None:
        self.troubles.append(message)

    def summary(self, summary: Summary) -> None:
        self.summaries.append(summary)


def _invoke(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin)


def _listen(*arguments: str) -> list[dict[str, Any]]:
    result = _invoke("listen", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ssast_edge", *arguments]


def _start(*arguments: str, stdin: int | None = None) -> "subprocess.Popen[bytes]":
    # A shell that starts tests in the background makes them, and what they start, ignore SIGINT.
    return subprocess.Popen(
        ["env", "--default-signal=INT", *_command(*arguments)],
        cwd=ROOT,
        bufsize=0,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _pcm(samples: FloatArray) -> NDArray[np.int16]:
    return np.round(samples * 32767).astype("<i2")


def _write_wav(path: Path, pcm: NDArray[np.int16], *, rate: int = RATE, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())
