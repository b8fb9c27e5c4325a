"""PocketSphinx over a WAV file, several thresholds: JSON lines for `ssast-edge eval --external`.

Runs in an environment of its own (README.md here), needs pocketsphinx 5.1.1 and nothing else. A
setting is added to the decimal exponent of every phrase's own threshold (PHRASES). All settings
share one pass: each has words of its own in the dictionary, which the search weighs separately.
An event is the moment at which a running program would learn of the keyword.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

# Label -> phones of each way to say it, decimal exponent of its threshold at setting 0. Phones
# are those of the package's dictionary, of snowboy those of snow and boy. Exponents: those with
# about two false accepts an hour each on half an hour of validation recordings (--common).
PHRASES: dict[str, tuple[tuple[str, ...], float]] = {
    "alexa": (("AH L EH K S AH",), -10),
    "computer": (("K AH M P Y UW T ER",), -30),
    "jarvis": (("JH AA R V AH S", "JH AA R V IH S"), -10),
    "smart_mirror": (("S M AA R T M IH R ER",), -25),
    "snowboy": (("S N OW B OY",), -10),
    "view_glass": (("V Y UW G L AE S",), -15),
}
SETTINGS = (-15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0)
RATE, BLOCK = 16000, 480  # Hz, samples: the voice detector takes 30 ms
FRAME = 160  # samples of a frame of the decoder
PROGRESS_S = 60
# What the decoder found is kept until its utterance ends: ended in a pause now and then.
UTTERANCE_S, LONGEST_UTTERANCE_S, PAUSE_S = 60, 120, 0.3


class Spotter:
    """The decoder with all phrases at all settings."""

    def __init__(self, settings: list[float], labels: list[str], common: bool) -> None:
        package = importlib.import_module("pocketsphinx")
        self._meaning: dict[str, tuple[float, str]] = {}  # of a word of the dictionary
        dictionary, phrases = [], []
        for setting in settings:
            for label in labels:
                ways, exponent = PHRASES[label]
                for phones in ways:
                    word = f"w{len(self._meaning)}"
                    self._meaning[word] = setting, label
                    dictionary.append(f"{word} {phones}\n")
                    threshold = setting + (0 if common else exponent)
                    phrases.append(f"{word} /1e{threshold:g}/\n")
        with tempfile.TemporaryDirectory() as folder:
            words, search = Path(folder) / "words.dict", Path(folder) / "phrases"
            words.write_text("".join(dictionary))
            search.write_text("".join(phrases))
            self._decoder: Any = package.Decoder(
                dict=str(words), kws=str(search), lm=None, loglevel="FATAL"
            )
        self._voice: Any = package.Vad()
        self._pause_s = 0.0
        self._begin()

    def push(self, samples: bytes) -> list[tuple[float, str]]:
        """What (setting, label) is new after this block."""
        self._decoder.process_raw(samples, False, False)
        self._samples += BLOCK
        frame = self._samples // FRAME
        found = set()
        for segment in self._decoder.seg() or ():
            word = segment.word.strip()
            # A program would have started over when it was told of the word: of what the decoder
            # finds, only what begins after that would be found again.
            if word in self._meaning and segment.start_frame >= self._told.get(word, 0):
                self._told[word] = frame
                found.add(self._meaning[word])
        self._end_in_pause(samples)
        return sorted(found)

    def _end_in_pause(self, samples: bytes) -> None:
        seconds = self._samples / RATE
        self._pause_s = 0.0 if self._voice.is_speech(samples) else self._pause_s + BLOCK / RATE
        is_pause = seconds > UTTERANCE_S and self._pause_s > PAUSE_S
        if is_pause or seconds > LONGEST_UTTERANCE_S:
            self._decoder.end_utt()
            self._begin()

    def _begin(self) -> None:
        self._decoder.start_utt()
        self._samples = 0
        self._told: dict[str, int] = {}  # word -> frame at which it was told last


def main() -> None:
    """One pass over the audio."""
    parser = argparse.ArgumentParser(description="PocketSphinx 5.1.1 as an external detector")
    parser.add_argument("--setting", type=float, action="append", help="exponent; repeatable")
    parser.add_argument("--label", choices=PHRASES, action="append", help="repeatable")
    parser.add_argument(
        "--common", action="store_true", help="settings are the exponents of all phrases"
    )
    parser.add_argument("audio", help="WAV, 16 kHz, mono, 16 bits")
    options = parser.parse_args()
    settings = options.setting or list(SETTINGS)
    try:
        spotter = Spotter(settings, options.label or list(PHRASES), options.common)
    except ImportError:
        sys.exit("pocketsphinx is not installed: pip install pocketsphinx==5.1.1")
    print(json.dumps({"settings": settings}))
    with wave.open(options.audio, "rb") as audio:
        if (audio.getframerate(), audio.getnchannels(), audio.getsampwidth()) != (RATE, 1, 2):
            sys.exit(f"{options.audio}: wanted {RATE} Hz, mono, 16 bits")
        blocks = audio.getnframes() // BLOCK
        for block in range(blocks):
            time_s = (block + 1) * BLOCK / RATE
            for setting, label in spotter.push(audio.readframes(BLOCK)):
                event = {"setting": setting, "label": label, "time_s": round(time_s, 3)}
                print(json.dumps(event))
            if block % (PROGRESS_S * RATE // BLOCK) == 0:
                print(json.dumps({"progress": round(block / blocks, 4)}), flush=True)


if __name__ == "__main__":
    main()
