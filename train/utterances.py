"""What synthetic speech says and in whose voice: keywords, near misses, words and sentences.

Plans alone: nothing here makes a sound (`train.synthesize` does).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.recipe import RecipeError

__all__ = [
    "COMMANDS",
    "HELD_OUT_VARIANTS",
    "KEYWORDS",
    "VOCABULARIES",
    "Utterance",
    "Vocabulary",
    "holds_keyword",
    "plan",
]

KEYWORDS = {
    "alexa": "alexa",
    "computer": "computer",
    "jarvis": "jarvis",
    "smart_mirror": "smart mirror",
    "snowboy": "snowboy",
    "view_glass": "view glass",
}
COMMANDS = {w: w for w in ("down", "left", "up", "go", "right", "zero", "one", "five", "eight")}


@dataclass(frozen=True)
class Vocabulary:
    """Keywords by label, the file of their near misses, and words that sound the same."""

    keywords: dict[str, str]
    near_misses: str
    homophones: tuple[str, ...] = ()


VOCABULARIES = {
    "wake_words": Vocabulary(KEYWORDS, "near_misses.txt"),
    "commands": Vocabulary(
        COMMANDS, "commands_near_misses.txt", ("write", "rite", "wright", "won", "ate")
    ),
}
WAKE_WORDS = VOCABULARIES["wake_words"]
ACCENTS = (
    "en-us", "en-us", "en-us", "en-gb", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan",
    "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip
VARIANTS = (
    "m1", "m2", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f5", "Alex", "Alicia",
    "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Lee",
    "Marco", "Mario", "Michael", "Mike", "Nguyen", "adam", "anika", "antonio", "aunty",
    "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward2", "grandma", "grandpa",
    "gustave", "iven", "iven2", "iven3", "john", "klatt", "klatt2", "klatt3", "klatt4", "linda",
    "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "pedro", "quincy",
    "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor", "whisper", "zac",
)  # fmt: skip
# Voices that no training clip uses: the demo and the near-miss tests speak with them.
HELD_OUT_VARIANTS = ("m3", "f4", "edward", "Jacky", "steph3", "rob")
# One Flite and one Festival voice may be the same person: "kal" is one, "slt" another.
FLITE_VOICES = {"awb": "awb", "rms": "rms", "slt": "slt", "kal": "kal", "kal16": "kal"}
FESTIVAL_VOICES = {"kal_diphone": "kal", "cmu_us_slt_arctic_hts": "slt"}
VAL_TIMBRES = frozenset({"m2", "f5", "Andy", "Gene2", "linda", "max", "sandro", "kal"})
# Shares of the engines; an accent is another language's eSpeak NG voice (phrases/accents.txt).
ENGINE_SHARES = {"espeak-ng": 0.70, "accent": 0.10, "flite": 0.13, "festival": 0.07}
_CARRIER_CHANCE = 0.4
_PHRASES = Path(__file__).parent / "phrases"


@dataclass(frozen=True)
class Utterance:
    """One clip to make.

    `speed` is words a minute (eSpeak NG) or a factor of the duration. `pitch` is 0 to 99 (eSpeak
    NG), the mean in Hz (Flite; its rms keeps its own) or, for Festival, whose voices all keep
    their own, a shift in half semitones by playing faster.
    """

    text: str
    keyword: str  # label, or empty
    kind: str  # keyword, near-miss, sentence or word
    engine: str  # espeak-ng, flite or festival
    voice: str
    speed: float
    pitch: int

    @property
    def timbre(self) -> str:
        """Who seems to speak, whatever the accent or engine: what the split goes by."""
        name = self.voice.split("+")[-1]
        return {**FLITE_VOICES, **FESTIVAL_VOICES}.get(name, name)

    @property
    def speaker(self) -> str:
        """Engine, voice and variant."""
        return "/".join([self.engine, *self.voice.split("+")])

    @property
    def split(self) -> str:
        """The validation set's timbres are never heard in training."""
        return "val" if self.timbre in VAL_TIMBRES else "train"

    @property
    def file_name(self) -> str:
        """Unique to all that the clip's sound depends on."""
        parts = (self.text, self.engine, self.voice, f"{self.speed:.2f}", str(self.pitch))
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        slug = re.sub(r"[^a-z]+", "-", (self.keyword or self.text).lower()).strip("-")[:40]
        return f"{self.kind}/{slug}-{digest}.flac"


def plan(
    seed: int,
    *,
    per_keyword: int,
    near_misses: int,
    sentences: int,
    words: int = 0,
    vocabulary: Vocabulary = WAKE_WORDS,
) -> list[Utterance]:
    """What to say, in whose voice; no two alike."""
    rng = np.random.default_rng(seed)
    keywords = vocabulary.keywords
    texts = [(keywords[k], k, "keyword") for k in keywords for _ in range(per_keyword)]
    texts += [(text, "", "near-miss") for text in _near_misses(rng, near_misses, vocabulary)]
    texts += [(text, "", "sentence") for text in _sentences(rng, sentences, vocabulary)]
    others = " ".join(_lines("words.txt")).split()
    others = [word for word in others if not holds_keyword(word, vocabulary)]
    texts += [(text, "", "word") for text in _dealt(rng, others, words)]
    engines = list(ENGINE_SHARES)
    shares = rng.choice(len(engines), size=len(texts), p=list(ENGINE_SHARES.values()))
    # Dealt, not drawn: every variant speaks every keyword about equally often.
    variants = _dealt(rng, VARIANTS, len(texts))
    return [
        _voiced(rng, *text, engines[share], variant)
        for text, share, variant in zip(texts, shares, variants, strict=True)
    ]


def holds_keyword(text: str, vocabulary: Vocabulary = WAKE_WORDS) -> bool:
    """Whether a keyword or its plural is said, also as the sum of words ("a lexa", "snow boy")."""
    words = re.findall(r"[a-z]+", text.lower().replace("'", ""))
    spoken = {name.replace(" ", "") for name in vocabulary.keywords.values()}
    spoken |= set(vocabulary.homophones)
    spans = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, i + 4))
    return any(span in spoken or re.sub(r"e?s$", "", span) in spoken for span in spans)


def _voiced(
    rng: np.random.Generator, text: str, keyword: str, kind: str, engine: str, variant: str
) -> Utterance:
    stretch = float(rng.uniform(0.75, 1.4))
    if engine == "flite":
        voice = str(rng.choice(list(FLITE_VOICES)))
        return Utterance(text, keyword, kind, engine, voice, stretch, int(rng.uniform(80, 230)))
    if engine == "festival":
        voice = str(rng.choice(list(FESTIVAL_VOICES)))
        return Utterance(text, keyword, kind, engine, voice, stretch, int(rng.integers(-5, 4)))
    accent = str(rng.choice(ACCENTS))
    if engine == "accent":
        spellings = _accents()
        accent = str(rng.choice(list(spellings)))
        text = spellings[accent].get(keyword, text)
    speed, pitch = float(rng.uniform(105, 230)), int(rng.uniform(10, 90))
    return Utterance(text, keyword, kind, "espeak-ng", f"{accent}+{variant}", speed, pitch)


def _near_misses(rng: np.random.Generator, count: int, vocabulary: Vocabulary) -> Iterator[str]:
    lines = _negatives(vocabulary.near_misses, vocabulary)
    carriers = [line for line in _lines("near_misses.txt") if "{x}" in line]
    phrases = list(dict.fromkeys(line for line in lines if "{x}" not in line))
    for phrase in _dealt(rng, phrases, count):
        text = phrase
        if rng.random() < _CARRIER_CHANCE:
            carrier = str(rng.choice(carriers)).replace("{x}", phrase, 1)
            text = carrier.replace("{x}", str(rng.choice(phrases)))
        yield phrase if holds_keyword(text, vocabulary) else text


def _sentences(rng: np.random.Generator, count: int, vocabulary: Vocabulary) -> Iterator[str]:
    lines = _lines("sentences.txt")
    lists = {m[1]: m[2].split("; ") for line in lines if (m := re.match(r"\[(\w+)\] (.+)", line))}
    plain = [line for line in lines if not line.startswith("[")]
    plain = [line for line in plain if not holds_keyword(re.sub(r"\{\w+\}", ",", line), vocabulary)]
    # A template is another sentence every time: it comes up more often.
    templates = plain + 4 * [line for line in plain if "{" in line]
    for template in _dealt(rng, templates, count):
        text = _filled(rng, template, lists)
        while holds_keyword(text, vocabulary):  # smart + mirror
            text = _filled(rng, template, lists)
        yield text


def _filled(rng: np.random.Generator, template: str, lists: dict[str, list[str]]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: str(rng.choice(lists[m[1]])), template)


def _dealt(rng: np.random.Generator, items: Sequence[str], count: int) -> list[str]:
    """`count` items, each as often as any other, in shuffled rounds."""
    rounds = -(-count // len(items))
    dealt = [items[i] for _ in range(rounds) for i in rng.permutation(len(items))]
    return dealt[:count]


@functools.cache
def _accents() -> dict[str, dict[str, str]]:
    """Spellings of the keywords by language: {"de": {"jarvis": "dscharvis", ...}, ...}."""
    rows = (line.split(": ", 1) for line in _lines("accents.txt"))
    return {code: dict(zip(KEYWORDS, said.split(" | "), strict=True)) for code, said in rows}


def _negatives(name: str, vocabulary: Vocabulary) -> list[str]:
    lines = _lines(name)
    for line in lines:
        if holds_keyword(line, vocabulary):
            raise RecipeError(f"{name}: {line!r} holds a keyword, it cannot be a negative")
    return lines


def _lines(name: str) -> list[str]:
    lines = [line.strip() for line in (_PHRASES / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
