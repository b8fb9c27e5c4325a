"""Writes the demo track that ships with the package: ssast_edge/demo/demo.ogg and demo.json.

    python -m demo.make_demo_audio

A synthetic room: eSpeak NG voices that no training clip uses say keywords, near misses and ordinary
sentences, with reverberation and the hum and hiss of a ventilator. demo.json holds what is said when.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from train.augment import room_impulse_response
from train.synthesize import HELD_OUT_VARIANTS, KEYWORDS, Utterance, speak

SAMPLE_RATE = 16000
TARGET = Path(__file__).parents[1] / "ssast_edge" / "demo"
SNR_DB = 20.0
SEED = 7

Samples = NDArray[np.float32]

# (text, accent): what is said, in order.
SCRIPT = (
    ("good morning everybody", "en-gb"),
    ("alexa", "en-us"),
    ("a new election was announced today", "en-gb-x-rp"),
    ("computer", "en-gb"),
    ("the commuter train is late again", "en-us"),
    ("jarvis", "en-us"),
    ("the car service was nervous", "en-gb"),
    ("smart mirror", "en-us"),
    ("that is a smart meter", "en-us"),
    ("snowboy", "en-gb"),
    ("he is a cowboy in the snow", "en-us"),
    ("view glass", "en-us"),
    ("a few glasses of water please", "en-gb"),
    ("alexa", "en-gb-scotland"),
    ("turn on the light in the kitchen", "en-us"),
    ("computer", "en-us"),
    ("snowball", "en-us"),
    ("jarvis", "en-gb"),
)
NEAR_MISSES = ("election", "commuter", "car service", "smart meter", "cowboy", "glasses", "snowball")


def kind_of(text: str) -> str:
    """keyword, near-miss or sentence."""
    if text in KEYWORDS.values():
        return "keyword"
    return "near-miss" if any(word in text for word in NEAR_MISSES) else "sentence"


def make() -> tuple[Samples, list[dict[str, object]]]:
    """The track and its words."""
    rng = np.random.default_rng(SEED)
    label_of = {text: label for label, text in KEYWORDS.items()}
    room = room_impulse_response(rng, 0.3)
    pieces: list[Samples] = []
    words: list[dict[str, object]] = []
    position = 0
    for number, (text, accent) in enumerate(SCRIPT):
        pause = np.zeros(int(rng.uniform(0.8, 1.4) * SAMPLE_RATE), dtype=np.float32)
        variant = HELD_OUT_VARIANTS[number % len(HELD_OUT_VARIANTS)]
        voice = Utterance(text, "", "", "espeak-ng", f"{accent}+{variant}", 150, 50)
        speech = speak(voice)
        speech *= rng.uniform(0.08, 0.14) / np.sqrt(np.mean(speech**2))
        start = position + len(pause)
        words.append(
            {
                "text": text,
                "keyword": label_of.get(text),
                "kind": kind_of(text),
                "start_s": round(start / SAMPLE_RATE, 3),
                "end_s": round((start + len(speech)) / SAMPLE_RATE, 3),
            }
        )
        pieces += [pause, speech]
        position = start + len(speech)
    pieces.append(np.zeros(int(1.5 * SAMPLE_RATE), dtype=np.float32))
    dry = np.concatenate(pieces)
    wet = fftconvolve(dry, room)[: len(dry)]
    speech_power = np.mean(wet[np.abs(wet) > 0.02] ** 2)
    fan = ventilator(rng, len(dry))
    fan *= np.sqrt(speech_power / 10 ** (SNR_DB / 10) / np.mean(fan**2))
    mixed = wet + fan
    return (0.8 * mixed / np.abs(mixed).max()).astype(np.float32), words


def ventilator(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Low-passed noise and a mains hum that swells slowly."""
    time = np.arange(length) / SAMPLE_RATE
    hiss = lfilter([1], [1, -0.9], rng.standard_normal(length))
    hum = sum(np.sin(2 * np.pi * f * time) / k for k, f in enumerate((50, 100, 150), start=1))
    return np.asarray((hiss + hum) * (1 + 0.2 * np.sin(2 * np.pi * 0.1 * time)))


def main() -> None:
    """Write both files, each under a temporary name first."""
    samples, words = make()
    TARGET.mkdir(parents=True, exist_ok=True)
    audio = TARGET / "demo.ogg"
    partial = audio.with_suffix(".tmp")
    soundfile.write(partial, samples, SAMPLE_RATE, format="OGG", subtype="VORBIS")
    partial.rename(audio)
    note = "Made by demo/make_demo_audio.py: synthetic voices (eSpeak NG), room and noise; no recording."
    text = json.dumps({"note": note, "words": words}, indent=2) + "\n"
    (TARGET / "demo.json").write_text(text, encoding="utf-8")
    print(f"{audio.name}: {len(samples) / SAMPLE_RATE:.1f} s, {audio.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
