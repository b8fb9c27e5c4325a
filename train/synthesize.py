"""Synthetic speech for training: keywords, near misses and sentences in many voices.

    python -m train.synthesize --out runs/synthetic

Uses eSpeak NG and Flite (Debian packages espeak-ng and flite). Writes 16 kHz FLAC clips, trimmed to
the speech, and manifest.csv last. Deterministic for a seed; clips that are there already are kept,
so the command resumes.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from train.recipe import RecipeError

__all__ = ["HELD_OUT_VARIANTS", "Utterance", "plan", "speak", "synthesize"]

SAMPLE_RATE = 16000
KEYWORDS = {
    "alexa": "alexa",
    "computer": "computer",
    "jarvis": "jarvis",
    "smart_mirror": "smart mirror",
    "snowboy": "snowboy",
    "view_glass": "view glass",
}
ACCENTS = (
    "en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
    "en-029", "en-us-nyc", "de", "nl", "sv", "hi", "it",
)  # fmt: skip
VARIANTS = (
    "m1", "m2", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f5", "Alex", "Alicia", "Andrea",
    "Andy", "Annie", "Denis", "Diogo", "Gene", "Hugo", "Lee", "Marco", "Mario", "Michael", "Mike",
    "adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed",
    "grandma", "grandpa", "gustave", "iven", "iven2", "john", "klatt", "klatt2", "klatt4", "linda",
    "max", "michel", "norbert", "pablo", "paul", "pedro", "quincy", "robert", "sandro", "shelby",
    "steph", "steph2", "travis", "victor", "whisper", "zac",
)  # fmt: skip
# Voices that no training clip uses: the demo and the near-miss tests speak with them.
HELD_OUT_VARIANTS = ("m3", "f4", "edward", "Jacky", "steph3", "rob")
FLITE_VOICES = ("awb", "rms", "slt", "kal16")
_PHRASES = Path(__file__).parent / "phrases"


@dataclass(frozen=True)
class Utterance:
    """One clip to make. `speed` is words a minute (eSpeak) or a duration factor (Flite)."""

    text: str
    keyword: str  # label, or empty
    kind: str  # keyword, near-miss or sentence
    engine: str  # espeak-ng or flite
    voice: str
    speed: float
    pitch: int

    @property
    def speaker(self) -> str:
        """Who seems to speak."""
        return f"{self.engine}/{self.voice.split('+')[-1]}"


def plan(seed: int, *, per_keyword: int, near_misses: int, sentences: int) -> list[Utterance]:
    """What to say, in whose voice."""
    rng = np.random.default_rng(seed)
    near = _lines("near_misses.txt")
    texts = [(text, label, "keyword") for label, text in KEYWORDS.items() for _ in range(per_keyword)]
    texts += [(near[i % len(near)], "", "near-miss") for i in range(near_misses)]
    texts += [(text, "", "sentence") for text in _sentences(rng, sentences)]
    return [_voiced(rng, *entry) for entry in texts]


def speak(utterance: Utterance) -> NDArray[np.float32]:
    """The samples of one utterance, 16 kHz mono, silence at both ends cut away."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        if utterance.engine == "espeak-ng":
            command = ["espeak-ng", "-v", utterance.voice, "-s", str(int(utterance.speed))]
            command += ["-p", str(utterance.pitch), "-w", str(path), "--", utterance.text]
        else:
            command = ["flite", "-voice", utterance.voice, "-t", utterance.text, "-o", str(path)]
            command += ["--setf", f"duration_stretch={utterance.speed:.2f}"]
            command += ["--setf", f"int_f0_target_mean={utterance.pitch}"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        samples, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return _trimmed(np.asarray(samples, dtype=np.float32))


def synthesize(out: Path, utterances: list[Utterance], jobs: int) -> None:
    """Make every clip, then the manifest."""
    for tool in ("espeak-ng", "flite"):
        if shutil.which(tool) is None:
            raise RecipeError(f"{tool} is not installed: apt install espeak-ng flite")
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{i:05d}-{_slug(u.text)}.flac" for i, u in enumerate(utterances)]
    with ThreadPoolExecutor(jobs) as pool:
        made = pool.map(_make, paths, utterances)
        for _ in tqdm(made, total=len(paths), desc="speech", unit="clip", mininterval=2):
            pass
    partial = out / ".manifest.csv.tmp"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "keyword", "kind", "engine", "voice", "speaker", "split"])
        for path, u in zip(paths, utterances, strict=True):
            writer.writerow([path.name, u.text, u.keyword, u.kind, u.engine, u.voice, u.speaker, "train"])
    partial.rename(out / "manifest.csv")


def _make(path: Path, utterance: Utterance) -> None:
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.tmp")
    soundfile.write(partial, speak(utterance), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial.rename(path)


def _voiced(rng: np.random.Generator, text: str, keyword: str, kind: str) -> Utterance:
    if rng.random() < 0.12:
        voice = FLITE_VOICES[int(rng.integers(len(FLITE_VOICES)))]
        stretch, f0 = float(rng.uniform(0.8, 1.4)), int(rng.uniform(85, 220))
        return Utterance(text, keyword, kind, "flite", voice, stretch, f0)
    accent = ACCENTS[int(rng.integers(len(ACCENTS)))]
    variant = VARIANTS[int(rng.integers(len(VARIANTS)))]
    speed, pitch = float(rng.uniform(110, 210)), int(rng.uniform(20, 80))
    return Utterance(text, keyword, kind, "espeak-ng", f"{accent}+{variant}", speed, pitch)


def _trimmed(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    frames = np.abs(samples[: len(samples) // 80 * 80]).reshape(-1, 80).max(axis=1)
    loud = np.flatnonzero(frames > 0.02 * max(frames.max(initial=0.0), 1e-6))
    if not len(loud):
        return samples
    return samples[loud[0] * 80 : (loud[-1] + 1) * 80]


def _sentences(rng: np.random.Generator, count: int) -> Iterable[str]:
    lines = _lines("sentences.txt")
    lists = {m[1]: m[2].split("; ") for line in lines if (m := re.match(r"\[(\w+)\] (.+)", line))}
    templates = [line for line in lines if not line.startswith("[")]
    for _ in range(count):
        template = templates[int(rng.integers(len(templates)))]
        yield re.sub(r"\{(\w+)\}", lambda m: str(rng.choice(lists[m[1]])), template)


def _lines(name: str) -> list[str]:
    lines = [line.strip() for line in (_PHRASES / name).read_text().splitlines()]
    kept = [line for line in lines if line and not line.startswith("#")]
    spoken = "|".join(KEYWORDS.values())
    for line in kept:
        if re.search(rf"\b({spoken})\b", line):
            raise RecipeError(f"{name}: {line!r} holds a keyword, it cannot be a negative")
    return kept


def _slug(text: str) -> str:
    return re.sub(r"[^a-z]+", "-", text.lower()).strip("-")[:40]


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--per-keyword", default=160, show_default=True, help="Renderings of each keyword.")
@click.option("--near-misses", default=2400, show_default=True)
@click.option("--sentences", default=900, show_default=True)
@click.option("--jobs", default=2, show_default=True)
def main(out: Path, seed: int, per_keyword: int, near_misses: int, sentences: int, jobs: int) -> None:
    """Write synthetic training speech."""
    try:
        utterances = plan(
            seed, per_keyword=per_keyword, near_misses=near_misses, sentences=sentences
        )
        synthesize(out, utterances, jobs)
    except (RecipeError, subprocess.SubprocessError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m train.synthesize")
