"""Words that an encoder never saw, enrolled from a few recordings: misses against false accepts.

    python -m benchmarks.enrollment BUNDLE --data DIR --split val --out runs/enrollment

Every word is enrolled several times from recordings of different speakers and heard in recordings
of the others; the background is the split's speech and sounds, of the telephone sentences what lies
beside their wake-up words. Both go through the streaming runtime once, by its hops; what an
enrolment gives is then a product with the embeddings that were kept. A word is heard when the score
reaches the threshold from its start to half a second after its end; each peak of the background
above it, a second from any higher one, is a false accept. Prints JSON; writes it and a figure to
--out.

val: the five words of WUW, which no bundle has as a class, words of one syllable cut out of read
sentences, which none has either, and the words of Speech Commands, which some have. test: those of
WUW by other speakers; yes, no, on, off and stop of Speech Commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.enrollment_words import READ_WORDS, SAMPLE_RATE, room_tone, words_of
from benchmarks.output import write_json
from ssast_edge import Spotter, load_bundle
from ssast_edge.audio import read_audio
from ssast_edge.backends import Backend, open_backend
from ssast_edge.bundle import Bundle
from ssast_edge.enrollment.background import Background, read_background
from ssast_edge.enrollment.classifier import learn_word
from ssast_edge.enrollment.discriminant import Discriminant
from ssast_edge.enrollment.enroll import find_outlier, hear
from ssast_edge.enrollment.errors import EnrollmentError
from ssast_edge.enrollment.recordings import Spoken, find_word
from ssast_edge.enrollment.stretches import lengths_of
from ssast_edge.evaluation.intervals import rate_interval
from train.background import noise_as_loud
from train.errors import one_line_errors
from train.packs import Clip, Split, read_packs
from train.telephone import TELEPHONE_WORDS, telephone_speech

RATES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # false accepts per hour
TAIL_S = 0.5  # after the word's end
PEAK_S = 1.0  # between two false accepts
MOST_TESTED = 80  # recordings of a word in each draw
_RESAMPLES = 2000

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Said:
    """A recording of a word, and its hops that count as hearing it."""

    word: str
    speaker: str
    spoken: Spoken
    windows: Array  # (hops, S, P)


class Keeper:
    """A backend that keeps what the encoder gives, in the background's space."""

    name = "keeper"

    def __init__(self, backend: Backend, background: Background) -> None:
        self._backend, self._background = backend, background
        self.hop_frames = backend.hop_frames
        self.rows: list[NDArray[np.float16]] = []

    def infer(self, fbank: Array, *, new_frames: int | None = None) -> Array:
        """Logits; the projection of the embedding is kept."""
        logits, embedding = self._backend.infer_both(fbank, new_frames=new_frames)
        self.rows.append(self._background.project(embedding[np.newaxis])[0].astype(np.float16))
        return logits

    def infer_both(self, fbank: Array, *, new_frames: int | None = None) -> tuple[Array, Array]:
        """As of the backend itself."""
        return self._backend.infer_both(fbank, new_frames=new_frames)

    def close(self) -> None:
        """Free the model."""
        self._backend.close()


def streamed(samples: Array, bundle: Bundle, keeper: Keeper) -> tuple[NDArray[np.float64], Array]:
    """Times (H,) and projections (H, S, P) of every hop of a stream."""
    keeper.rows = []
    times: list[float] = []
    plain = Spotter(bundle, backend=keeper, on_scores=lambda time_s, _: times.append(time_s))
    for first in range(0, len(samples), 5 * SAMPLE_RATE):
        plain.push(samples[first : first + 5 * SAMPLE_RATE])
    return np.array(times), np.array(keeper.rows)


def background_hops(
    clips: Sequence[Clip | Array],
    bundle: Bundle,
    keeper: Keeper,
    noise: tuple[float, Sequence[Array]] | None = None,
) -> tuple[Array, float]:
    """Projections (H, S, P) of all recordings one after the other, and hours. noise: of `said`."""
    rng, of_noise = np.random.default_rng(0), np.random.default_rng(4)
    rows, seconds = [], 0.0
    with click.progressbar(rng.permutation(len(clips)), label="background", file=sys.stderr) as bar:
        for index in bar:
            clip = clips[index]
            samples = read_audio(clip.path) if isinstance(clip, Clip) else clip
            whole = Spoken("", samples, 0.0, len(samples) / SAMPLE_RATE)
            samples = np.concatenate([room_tone(rng, rng.uniform(0.3, 1.5)), samples])
            if noise is not None:
                samples = samples + _under(whole, len(samples), *noise, of_noise)
            rows.append(streamed(samples, bundle, keeper)[1])
            seconds += len(samples) / SAMPLE_RATE
    return np.concatenate(rows), seconds / 3600


def said(
    clips: Sequence[tuple[str, str, str, Array]],
    bundle: Bundle,
    keeper: Keeper,
    noise: tuple[float, Sequence[Array]] | None = None,
) -> tuple[list[Said], dict[str, int]]:
    """Every (word, speaker, name, samples) in a stream of its own, and how many were refused.

    noise: how many dB the streams' noise lies below the words, and what it is cut from.
    """
    rng, of_noise = np.random.default_rng(1), np.random.default_rng(3)
    found: list[Said] = []
    refused: dict[str, int] = {}
    lead_s = bundle.window_frames * bundle.fbank.hop_ms / 1000 + 0.3
    with click.progressbar(clips, label="words", file=sys.stderr) as bar:
        for word, speaker, name, samples in bar:
            try:
                spoken = find_word(name, samples, bundle)
            except EnrollmentError:
                refused[word] = refused.get(word, 0) + 1
                continue
            lead = room_tone(rng, lead_s + rng.uniform(0, bundle.hop_ms / 1000))
            heard = np.concatenate([lead, samples, room_tone(rng, 1.0)])
            if noise is not None:
                heard = heard + _under(spoken, len(heard), *noise, of_noise)
            times, rows = streamed(heard, bundle, keeper)
            at = len(lead) / SAMPLE_RATE
            counts = (times >= at + spoken.start_s) & (times <= at + spoken.end_s + TAIL_S)
            found.append(Said(word, speaker, spoken, rows[counts]))
    return found, refused


def _under(
    spoken: Spoken, size: int, below_db: float, noises: Sequence[Array], rng: np.random.Generator
) -> Array:
    """Noise (size,), so many dB below a word."""
    noise = noise_as_loud(spoken, size, SAMPLE_RATE, noises, rng)
    return np.asarray(noise * 10 ** (-below_db / 20), np.float32)


def peaks(scores: Array, hops_apart: int, most: int) -> Array:
    """Highest scores first, each `hops_apart` from any higher one."""
    left = scores.copy()
    found = []
    for _ in range(min(most, len(left))):
        best = int(left.argmax())
        if not np.isfinite(left[best]):
            break
        found.append(left[best])
        left[max(0, best - hops_apart) : best + hops_apart + 1] = -np.inf
    return np.array(found, np.float32)


def draw(
    bundle: Bundle,
    background: Background,
    backend: Backend,
    pool: Sequence[Said],
    hops: Array,
    hours: float,
    count: int,
    seed: int,
    with_noise: bool,
) -> dict[str, Any]:
    """One enrolment from `count` speakers, heard in the recordings of the others."""
    rng = np.random.default_rng([seed, count, len(pool)])
    speakers = rng.permutation(sorted({one.speaker for one in pool})).tolist()
    chosen = speakers[:count]
    clips = []
    for speaker in chosen:
        own = [one for one in pool if one.speaker == speaker]
        clips.append(own[int(rng.integers(len(own)))].spoken)
    tested = [one for one in pool if one.speaker not in chosen]
    if len(tested) > MOST_TESTED:
        tested = [tested[i] for i in rng.permutation(len(tested))[:MOST_TESTED]]
    heard = hear(clips, bundle, background, backend, with_noise=with_noise)
    recorded = [one.recorded for one in heard]
    length = float(np.median([one.length for one in heard]))
    lengths = lengths_of(length, background.windows.shape[1])
    directions = Discriminant(background, lengths).towards(recorded).directions
    learned = learn_word(
        background, recorded, length=length, false_accepts_per_hour=1.0, hop_ms=bundle.hop_ms
    )
    hops_apart = round(1000 * PEAK_S / bundle.hop_ms)
    events = peaks(directions.scores(hops), hops_apart, 1 + int(max(RATES) * hours))
    best = np.array([directions.scores(one.windows).max() for one in tested])
    misses = []
    for rate in RATES:
        allowed = int(rate * hours)
        limit = events[allowed] if allowed < len(events) else -np.inf
        misses.append(float(np.mean(best <= limit)))
    count_above = int(np.sum(events >= learned.threshold))
    return {
        "word": pool[0].word,
        "clips": count,
        "seed": seed,
        "tested": len(tested),
        "missed_at": misses,
        "missed_at_threshold": float(np.mean(best < learned.threshold)),
        "false_accepts_at_threshold": count_above,
        "outlier": find_outlier(heard, learned) is not None,
    }


def summary(draws: Sequence[dict[str, Any]], hours: float) -> dict[str, Any]:
    """Means over words and draws, with intervals from resampling words, then draws."""
    words = sorted({one["word"] for one in draws})
    table = [
        np.array([[*one["missed_at"], one["missed_at_threshold"]]
                  for one in draws if one["word"] == word])
        for word in words
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(_RESAMPLES):
        rows = [table[i] for i in rng.integers(len(table), size=len(table))]
        resampled.append(
            np.mean([r[rng.integers(len(r), size=len(r))].mean(axis=0) for r in rows], axis=0)
        )
    ends = np.quantile(resampled, [0.025, 0.975], axis=0)
    mean = np.mean([rows.mean(axis=0) for rows in table], axis=0)
    fired = [one["false_accepts_at_threshold"] for one in draws]
    return {
        "words": words,
        "draws": len(draws),
        "rates_per_hour": list(RATES),
        "missed": mean[:-1].round(4).tolist(),
        "missed_interval": ends[:, :-1].T.round(4).tolist(),
        "at_threshold": {
            "missed": round(float(mean[-1]), 4),
            "missed_interval": ends[:, -1].round(4).tolist(),
            "false_accepts_per_hour": round(float(np.mean(fired)) / hours, 3),
            "least_and_most": [round(min(fired) / hours, 3), round(max(fired) / hours, 3)],
        },
        "by_word": {
            word: {
                str(rate): round(float(value), 4) for rate, value in zip(RATES, rows, strict=True)
            }
            for word, rows in ((w, t.mean(axis=0)[:-1]) for w, t in zip(words, table, strict=True))
        },
    }


def figure(result: dict[str, Any], path: Path) -> None:
    """Misses against false accepts per hour, a line for each number of recordings."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = drawn.add_subplot()
    for name, found in result["results"].items():
        low, high = np.array(found["missed_interval"]).T
        (line,) = axes.plot(RATES, 100 * np.array(found["missed"]), marker="o", label=name)
        axes.fill_between(RATES, 100 * low, 100 * high, color=line.get_color(), alpha=0.12)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(
        f"false accepts per hour ({result['background_hours']:.2f} h of speech and sounds)"
    )
    axes.set_ylabel("missed, %")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(frameon=False)
    drawn.savefig(path, dpi=150)


def measure(
    name: str,
    data: Path,
    split: Split,
    seeds: int,
    clips: Sequence[int],
    with_noise: bool,
    words: Sequence[str] = (),
    below_db: float | None = None,
) -> dict[str, Any]:
    """Everything for one bundle."""
    bundle = load_bundle(name)
    background = read_background(bundle)
    backend = open_backend(bundle, embeds=True)
    keeper = Keeper(backend, background)
    running = [
        clip
        for clip in read_packs(data, ("librispeech", "speechocean", "esc10", "background_noise"))
        if clip.split == split
    ]
    telephone = telephone_speech(data, split)
    noise = None
    if below_db is not None:
        clips_of_noise = [c for c in read_packs(data, ("background_noise",)) if c.split == split]
        noise = below_db, [read_audio(clip.path) for clip in clips_of_noise]
    hops, hours = background_hops([*running, *telephone], bundle, keeper, noise)
    wanted = [one for one in words_of(data, split) if not words or one[0] in words]
    everything, refused = said(wanted, bundle, keeper, noise)
    names = sorted({one.word for one in everything})
    groups: dict[str, tuple[str, ...]] = {
        "words of WUW": TELEPHONE_WORDS,
        "words of Speech Commands": tuple(
            w for w in names if w not in TELEPHONE_WORDS and w not in READ_WORDS
        ),
        "words of one syllable": READ_WORDS if split == "val" else (),
    }
    results: dict[str, Any] = {}
    draws: list[dict[str, Any]] = []
    plan = [(word, count, seed) for word in names for count in clips for seed in range(seeds)]
    with click.progressbar(plan, label="enrolments", file=sys.stderr) as bar:
        for word, count, seed in bar:
            pool = [one for one in everything if one.word == word]
            draws.append(
                draw(bundle, background, backend, pool, hops, hours, count, seed, with_noise)
            )
    for group, members in groups.items():
        for count in clips:
            own = [d for d in draws if d["word"] in members and d["clips"] == count]
            if own:
                results[f"{group}, {count} recordings"] = summary(own, hours)
    return {
        "bundle": f"{bundle.name} {bundle.version}",
        "split": split,
        "background_hours": round(hours, 4),
        "one_event_is": [round(end, 3) for end in rate_interval(1, hours)],
        "with_noise": with_noise,
        "below_db": below_db,
        "refused": refused,
        "results": results,
        "draws": draws,
    }


@click.command()
@click.argument("bundle")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--clips", type=click.IntRange(3, 10), multiple=True, default=(3, 5, 10))
@click.option("--word", "words", multiple=True, help="Only these words.")
@click.option("--with-noise/--without-noise", default=True, show_default=True,
              help="Enroll each recording in noise as well, as the command does.")  # fmt: skip
@click.option(
    "--below-db", type=float, help="Hear all of it in noise, so far below each recording."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False))
def main(
    bundle: str,
    data: Path,
    split: Split,
    seeds: int,
    clips: tuple[int, ...],
    words: tuple[str, ...],
    with_noise: bool,
    below_db: float | None,
    out: Path | None,
) -> None:
    """Enroll words of a split of DATA from a few recordings and measure."""
    with one_line_errors():
        result = measure(bundle, data, split, seeds, clips, with_noise, words, below_db)
        write_json(result, out / "enrollment.json" if out else None)
        if out is not None:
            figure(result, out / "enrollment.png")


if __name__ == "__main__":
    main()
