"""Writes the demo track that ships with the package: ssast_edge/demo/demo.ogg and demo.json.

    python -m demo.make_demo_audio

A synthetic room: eSpeak NG voices that no training clip uses say keywords, near misses and ordinary
sentences from several places of one room, over the hum and hiss of a ventilator. demo.json holds
what is said when. Deterministic: the same programs give the same samples.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from train.augment import room_impulse_response
from train.errors import one_line_errors
from train.synthesize import speak
from train.utterances import KEYWORDS, Utterance

__all__ = ["SCRIPT", "make", "ventilator"]

SAMPLE_RATE = 16000
TARGET = Path(__file__).parents[1] / "ssast_edge" / "demo"
RT60_S = 0.3
SNR_DB = 18.0  # mean power of the words over the ventilator's
PEAK = 0.8
SEED = 7

Samples = NDArray[np.float32]

# (text, kind, accent+variant): what is said, in order. The variants are train.utterances'
# HELD_OUT_VARIANTS; a keyword that comes twice has two voices.
SCRIPT = (
    ("good morning everybody", "sentence", "en-gb+m3"),
    ("alexa", "keyword", "en-us+f4"),
    ("a new election was announced today", "near-miss", "en-gb-x-rp+edward"),
    ("computer", "keyword", "en-gb+Jacky"),
    ("the commuter train is late again", "near-miss", "en-us+steph3"),
    ("jarvis", "keyword", "en-us+rob"),
    ("the car service was nervous", "near-miss", "en-gb+m3"),
    ("smart mirror", "keyword", "en-us+f4"),
    ("that is a smart meter", "near-miss", "en-us+edward"),
    ("snowboy", "keyword", "en-gb+Jacky"),
    ("he is a cowboy in the snow", "near-miss", "en-us+steph3"),
    ("view glass", "keyword", "en-us+rob"),
    ("a few glasses of water please", "near-miss", "en-gb+m3"),
    ("alexa", "keyword", "en-gb-scotland+edward"),
    ("turn on the light in the kitchen", "sentence", "en-us+Jacky"),
    ("computer", "keyword", "en-us+steph3"),
    ("snowball", "near-miss", "en-us+f4"),
    ("jarvis", "keyword", "en-gb+m3"),
    ("set a timer for twenty five minutes", "sentence", "en-gb-x-rp+rob"),
    ("smart mirror", "keyword", "en-gb+edward"),
    ("snowboy", "keyword", "en-us+steph3"),
    ("thank you and good night", "sentence", "en-gb+f4"),
)


def make() -> tuple[Samples, list[dict[str, object]]]:
    """The track (N,) and its words, in order."""
    rng = np.random.default_rng(SEED)
    label_of = {text: label for label, text in KEYWORDS.items()}
    placed: list[tuple[int, Samples]] = []
    words: list[dict[str, object]] = []
    position = 0
    for text, kind, voice in SCRIPT:
        speech = speak(Utterance(text, "", "", "espeak-ng", voice, speed=150, pitch=50))
        speech *= rng.uniform(0.08, 0.14) / np.sqrt(np.mean(speech**2))
        start = position + int(rng.uniform(1.0, 1.6) * SAMPLE_RATE)
        position = start + len(speech)
        words.append(
            {
                "text": text,
                "keyword": label_of[text] if kind == "keyword" else None,
                "kind": kind,
                "start_s": round(start / SAMPLE_RATE, 3),
                "end_s": round(position / SAMPLE_RATE, 3),
            }
        )
        placed.append((start, speech))
    track = np.zeros(position + int(1.5 * SAMPLE_RATE))
    for start, speech in placed:
        # The direct sound is the response's first sample: the times stay exact.
        heard = fftconvolve(speech, room_impulse_response(rng, RT60_S))[: len(track) - start]
        track[start : start + len(heard)] += heard
    speech_power = np.mean(np.concatenate([track[s : s + len(x)] for s, x in placed]) ** 2)
    fan = ventilator(rng, len(track))
    track += fan * np.sqrt(speech_power / 10 ** (SNR_DB / 10) / np.mean(fan**2))
    return (PEAK * track / np.abs(track).max()).astype(np.float32), words


def ventilator(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Low-passed noise and a mains hum that swell slowly, (length,)."""
    time_s = np.arange(length) / SAMPLE_RATE
    hiss = lfilter([1], [1, -0.9], rng.standard_normal(length))
    hum = sum(np.sin(2 * np.pi * f * time_s) / k for k, f in enumerate((50, 100, 150), start=1))
    return np.asarray((hiss + hum) * (1 + 0.2 * np.sin(2 * np.pi * 0.1 * time_s)))


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=TARGET,
    help="Folder.  [default: ssast_edge/demo]",
)
def main(out: Path) -> None:
    """Write demo.ogg and demo.json, each under a temporary name first."""
    if shutil.which("espeak-ng") is None:
        raise click.ClickException("espeak-ng is not installed: apt install espeak-ng")
    with one_line_errors():
        click.echo(write(out))


def write(out: Path) -> str:
    """Write both files; what was written, for people."""
    samples, words = make()
    out.mkdir(parents=True, exist_ok=True)
    audio, times = out / "demo.ogg", out / "demo.json"
    partial = out / ".demo.ogg.tmp"
    soundfile.write(partial, samples, SAMPLE_RATE, format="OGG", subtype="VORBIS")
    partial.rename(audio)
    note = (
        "Made by demo/make_demo_audio.py: synthetic voices (eSpeak NG), room and noise; "
        "no recording."
    )
    partial = out / ".demo.json.tmp"
    partial.write_text(json.dumps({"note": note, "words": words}, indent=2) + "\n", "utf-8")
    partial.rename(times)
    size_kb = audio.stat().st_size / 1000
    return f"{audio.name}: {len(samples) / SAMPLE_RATE:.1f} s, {size_kb:.0f} kB"


if __name__ == "__main__":
    main(prog_name="python -m demo.make_demo_audio")
