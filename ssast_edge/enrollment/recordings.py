"""Recordings of a word as windows for the model: where the word lies, and each in noise.

A window ends with the word, or a little later, as the runtime's hops will. Knows nothing of files
or models. T frames of a window, F bins.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.enrollment.errors import EnrollmentError
from ssast_edge.evaluation.alignment import share_outside, word_extent
from ssast_edge.fbank import fbank

__all__ = ["Spoken", "find_word", "in_noise", "in_room", "rows_in", "word_windows"]

Samples = NDArray[np.float32]

SHORTEST_S, MARGIN_S = 0.12, 0.1  # of a word; of a window beside the longest
FAINT = 10 ** (-55 / 20)  # root mean square of the word
CLIPPED, CLIPPED_SHARE = 0.999, 0.02  # of the word's samples
MORE_SHARE = 0.5  # loud frames beside the word, of those in it: another word, no click or breath
# Below the word, and the exponent of its power over frequency: a hiss, and a rumble as of engines.
NOISES = ((20.0, 0.0), (10.0, -1.0))
LOWEST_HZ = 60.0  # of a noise: what lies below is no level that is heard
# Between the word's end and the window's: a model that looks back knows its last phone then.
AFTER_FRAMES = (8, 12)


@dataclass(frozen=True, eq=False)
class Spoken:
    """A recording and where the word lies in it."""

    name: str
    samples: Samples  # (N,) mono, at the front end's rate
    start_s: float
    end_s: float


def find_word(name: str, samples: Samples, bundle: Bundle) -> Spoken:
    """Where the word is. Raises EnrollmentError for a recording that cannot be learned from."""
    config = bundle.fbank
    rate, hop_s = config.sample_rate, config.hop_ms / 1000
    if len(samples) < SHORTEST_S * rate:
        raise EnrollmentError(f"{name} is {len(samples) / rate:.2f} s long: no word in it")
    if not np.abs(samples).max() > 0:
        raise EnrollmentError(f"{name} is silent: record it again, or check the microphone")
    features = fbank(samples, config)
    first, last = word_extent(features)
    spoken = Spoken(name, samples, first * hop_s, last * hop_s)
    word = samples[int(spoken.start_s * rate) : int(spoken.end_s * rate)]
    level = float(np.sqrt(np.mean(word.astype(np.float64) ** 2))) if len(word) else 0.0
    if level < FAINT:
        raise EnrollmentError(
            f"{name} is silent (the loudest part {20 * np.log10(max(level, 1e-9)):.0f} dBFS): "
            "record it again, nearer or louder"
        )
    share = float(np.mean(np.abs(word) >= CLIPPED))
    if share > CLIPPED_SHARE:
        raise EnrollmentError(
            f"{name} is clipped ({100 * share:.0f} % of the word): turn the input down and record "
            "it again"
        )
    window_s = bundle.window_frames * hop_s
    length_s = spoken.end_s - spoken.start_s
    if length_s > window_s - MARGIN_S:
        raise EnrollmentError(
            f"{name} is too long: {length_s:.2f} s of sound, the model hears {window_s:.2f} s at "
            "once; one word of up to "
            f"{window_s - MARGIN_S:.1f} s, with quiet before and after it"
        )
    if share_outside(features, first, last) > MORE_SHARE:
        raise EnrollmentError(
            f"{name} holds more than one word or sound: leave the word alone in it, once, with "
            "quiet before and after it"
        )
    if length_s < SHORTEST_S:
        raise EnrollmentError(f"{name} holds {length_s:.2f} s of sound: no word in it")
    return spoken


def rows_in(spoken: Spoken, bundle: Bundle, rows: int) -> float:
    """How many rows of an embedding, of `rows`, a word is long."""
    window_s = bundle.window_frames * bundle.fbank.hop_ms / 1000
    return (spoken.end_s - spoken.start_s) * rows / window_s


def in_room(spoken: Spoken, bundle: Bundle, seed: int) -> Spoken:
    """The recording with room tone before and after, as long as windows that end with it want."""
    config, rate = bundle.fbank, bundle.fbank.sample_rate
    rng = np.random.default_rng(seed)
    end = round(spoken.end_s * rate)
    window = bundle.window_frames * config.hop_samples + config.window_samples
    tail = (AFTER_FRAMES[-1] + 1) * config.hop_samples + config.window_samples
    before, after = max(0, window - end), max(0, end + tail - len(spoken.samples))
    quiet = _quiet(spoken.samples)
    samples = np.concatenate(
        [
            quiet * rng.standard_normal(before),
            spoken.samples,
            quiet * rng.standard_normal(after),
        ]
    ).astype(np.float32)
    lead_s = before / rate
    return Spoken(spoken.name, samples, spoken.start_s + lead_s, spoken.end_s + lead_s)


def in_noise(spoken: Spoken, rate: int, seed: int) -> Iterator[Spoken]:
    """The recording with each of NOISES under all of it."""
    rng = np.random.default_rng(seed)
    word = spoken.samples[int(spoken.start_s * rate) : int(spoken.end_s * rate)]
    level = float(np.sqrt(np.mean(word**2)))
    for below_db, exponent in NOISES:
        noise = _noise(rng, len(spoken.samples), rate, exponent) * level * 10 ** (-below_db / 20)
        changed = (spoken.samples + noise).clip(-1, 1).astype(np.float32)
        yield Spoken(spoken.name, changed, spoken.start_s, spoken.end_s)


def _noise(rng: np.random.Generator, size: int, rate: int, exponent: float) -> NDArray[np.float64]:
    """Gaussian noise of root mean square 1 whose power goes by a power of the frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    hertz = np.fft.rfftfreq(size, 1 / rate)
    heard = hertz >= LOWEST_HZ
    spectrum[heard] *= hertz[heard] ** (exponent / 2)
    spectrum[~heard] = 0
    noise = np.fft.irfft(spectrum, size)
    return np.asarray(noise / max(np.sqrt(np.mean(noise**2)), 1e-9))


def word_windows(spoken: Spoken, bundle: Bundle, seed: int) -> NDArray[np.float32]:
    """(len(AFTER_FRAMES), T, F) raw log-mel: room tone where the recording is too short."""
    config, frames = bundle.fbank, bundle.window_frames
    heard = in_room(spoken, bundle, seed)
    features = fbank(heard.samples, config)
    last = round(heard.end_s * config.sample_rate) // config.hop_samples
    return np.stack([features[last + extra - frames : last + extra] for extra in AFTER_FRAMES])


def _quiet(samples: Samples) -> float:
    """Root mean square of the quietest tenth of a recording, at most that of a quiet room."""
    size = max(1, min(len(samples), 160))
    pieces = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64)
    level = float(np.sqrt(np.quantile((pieces**2).mean(axis=1), 0.1)))
    return float(np.clip(level, 10**-4.5, 10**-3))
