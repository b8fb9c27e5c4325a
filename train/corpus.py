"""A recipe's recordings, ready to be read: manifest, split, cache, statistics."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from train.data.manifest import Example, ManifestError, missing_files, read_manifest
from train.data.shards import ShardSource
from train.data.source import ClipSource, FileSource, PcmCache, make_pcm_cache
from train.data.statistics import fbank_statistics
from train.engine import TrainingData
from train.machine import Machine
from train.recipe import FinetuneRecipe, PretrainRecipe, RecipeError

__all__ = ["Corpus", "Part", "hold_out", "open_corpus", "open_recordings"]


@dataclass(frozen=True)
class Part:
    """Some of a source's examples, numbered from 0."""

    source: ClipSource
    examples: Sequence[Example]
    indices: NDArray[np.intp]

    @property
    def blocks(self) -> Sequence[NDArray[np.intp]]:
        """The source's blocks, as numbers of this part's examples."""
        place = {int(index): number for number, index in enumerate(self.indices)}
        blocks = ([place[int(i)] for i in block if int(i) in place] for block in self.source.blocks)
        return [np.array(block, dtype=np.intp) for block in blocks if block]

    def __len__(self) -> int:
        return len(self.indices)

    def durations(self) -> NDArray[np.float64]:
        """(examples,) seconds of each."""
        return self.source.durations()[self.indices]

    def samples(self, index: int) -> NDArray[np.float32]:
        """(N,) samples of the part's example `index`."""
        return self.source.samples(int(self.indices[index]))


@dataclass(frozen=True)
class Corpus:
    """All examples of a manifest that can be read, and which of them train and validate."""

    name: str
    source: ClipSource
    examples: Sequence[Example]
    classes: tuple[str, ...]
    train: Sequence[int]
    val: Sequence[int]
    statistics: tuple[float, float]  # mean and standard deviation of the raw log-mel

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the corpora that train; the manifest's where an example names none."""
        return tuple(sorted({self.examples[i].source or self.name for i in self.train}))

    def record(self) -> TrainingData:
        """What a checkpoint keeps of this data."""
        digest = hashlib.sha256()
        for index in self.train:
            example = self.examples[index]
            digest.update(f"{example.path} {example.start_s} {example.labels}\n".encode())
        return TrainingData(self.classes, self.statistics, self.sources, digest.hexdigest()[:16])

    def part(self, indices: Sequence[int]) -> Part:
        """The examples at `indices`, as a source of their own."""
        return Part(
            self.source, [self.examples[i] for i in indices], np.asarray(indices, dtype=np.intp)
        )


def open_corpus(
    recipe: PretrainRecipe | FinetuneRecipe,
    manifests: Path,
    cache: Path | None,
    fabric: Fabric,
    machine: Machine,
) -> Corpus:
    """Read the recipe's manifest; decode it once into `cache` where one is given.

    Statistics come from the training examples, unless the recipe gives them.
    """
    place = recipe.data.manifest
    with fabric.rank_zero_first():  # one process fills the cache, the others find it full
        source, examples, all_classes = open_recordings(
            place, manifests, cache, max(1, machine.workers)
        )
        examples = hold_out(examples, recipe.data.validation_share)
        train, val = split(examples, recipe)
        _check_split(train, val, recipe)
        statistics = (recipe.normalization.mean, recipe.normalization.std)
        if not statistics[1]:
            part = Part(source, [examples[i] for i in train], np.asarray(train, dtype=np.intp))
            statistics = _statistics(part, recipe)
    classes = all_classes if isinstance(recipe, FinetuneRecipe) else ()
    return Corpus(Path(place).stem, source, examples, classes, train, val, statistics)


class _Joined:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[ClipSource]) -> None:
        self.sources = sources
        self.starts = np.cumsum([0, *(len(source) for source in sources)])

    @property
    def blocks(self) -> Sequence[NDArray[np.intp]]:
        """Those of each source; recordings that lie in no shard are a block together."""
        if not any(source.blocks for source in self.sources):
            return ()
        return [
            block + start
            for source, start in zip(self.sources, self.starts, strict=False)
            for block in (source.blocks or [np.arange(len(source))])
        ]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def samples(self, index: int) -> NDArray[np.float32]:
        """(N,) samples of one example."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[number].samples(index - int(self.starts[number]))

    def durations(self) -> NDArray[np.float64]:
        """(examples,) seconds of each."""
        return np.concatenate([source.durations() for source in self.sources])


def open_recordings(
    places: str,
    manifests: Path,
    cache: Path | None,
    jobs: int,
    *,
    keep: Callable[[Sequence[Example]], Sequence[Example]] = lambda examples: examples,
) -> tuple[ClipSource, Sequence[Example], tuple[str, ...]]:
    """Recordings, examples and classes of the manifests or shards named, joined by " + ".

    keep: of a manifest's examples those that are wanted; the others are not decoded.
    """
    names = places.split(" + ")
    if len(set(names)) < len(names):
        raise ManifestError(f"{places}: a manifest is named twice")
    opened = [_open(place, manifests, cache, jobs, keep) for place in names]
    if len(opened) == 1:
        return opened[0]
    classes = tuple(dict.fromkeys(label for _, _, labels in opened for label in labels))
    examples = [example for _, found, _ in opened for example in found]
    return _Joined([source for source, _, _ in opened]), examples, classes


def _open(
    place: str,
    manifests: Path,
    cache: Path | None,
    jobs: int,
    keep: Callable[[Sequence[Example]], Sequence[Example]],
) -> tuple[ClipSource, Sequence[Example], tuple[str, ...]]:
    """Recordings, examples and classes of a manifest, or of shards (a folder or an address)."""
    if "://" in place or (manifests / place / "shards.json").is_file():
        base = place if "://" in place else str(manifests / place)
        shards = ShardSource(base, cache or manifests / "shards")
        return shards, shards.examples, shards.classes
    manifest = read_manifest(manifests / place)
    manifest = dataclasses.replace(manifest, examples=list(keep(manifest.examples)))
    if absent := missing_files(manifest):
        raise ManifestError(
            f"{place}: {len(absent)} of {len(manifest.examples)} recordings are not there, "
            f"the first: {absent[0]}"
        )
    if cache is None:
        return FileSource(manifest), manifest.examples, manifest.classes
    kept = make_pcm_cache(cache, manifest, jobs=jobs)
    return kept, kept.examples, manifest.classes


def _statistics(part: Part, recipe: PretrainRecipe | FinetuneRecipe) -> tuple[float, float]:
    """Computed once for the same recordings and front end, where there is a cache."""
    if not isinstance(part.source, PcmCache):
        return fbank_statistics(part, recipe.fbank)
    text = f"{part.indices.tolist()} {dataclasses.asdict(recipe.fbank)}"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = part.source.folder / f"statistics-{key}.json"
    if not path.is_file():
        mean, std = fbank_statistics(part, recipe.fbank)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps({"mean": mean, "std": std}))
        partial.rename(path)
    kept = json.loads(path.read_text())
    return kept["mean"], kept["std"]


def hold_out(examples: Sequence[Example], share: float) -> Sequence[Example]:
    """Move about that share of the speakers (clips, where none is named) from train to val.

    By a hash of the name, so that clips that come later, another place on the disk or shards move
    nobody. Not where some validate already.
    """
    if not share or any(example.split == "val" for example in examples):
        return examples

    def moves(example: Example) -> bool:
        name = example.speaker or Path(example.path).name
        draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        return example.split == "train" and draw < share * 2**32

    return [dataclasses.replace(e, split="val") if moves(e) else e for e in examples]


def split(
    examples: Sequence[Example], recipe: PretrainRecipe | FinetuneRecipe
) -> tuple[list[int], list[int]]:
    """Indices that train and that validate, by the recipe's fold or the manifest's splits."""
    data = recipe.data
    if data.test_fold:
        if not any(e.fold == data.test_fold for e in examples):
            raise RecipeError(f"{data.manifest}: no example has fold {data.test_fold}")
        train = [
            i for i, e in enumerate(examples) if e.fold != data.test_fold and e.split == "train"
        ]
        val: list[int] = []
    else:
        train = [i for i, e in enumerate(examples) if e.split == "train"]
        val = [i for i, e in enumerate(examples) if e.split == "val"]
    if data.label_fraction < 1:
        train = _fraction(examples, train, data.label_fraction, recipe.seed)
    return train, val


def _check_split(
    train: Sequence[int], val: Sequence[int], recipe: PretrainRecipe | FinetuneRecipe
) -> None:
    place = recipe.data.manifest
    if not train:
        raise RecipeError(f"{place}: no example to train on")
    if recipe.data.validation_share and not val:
        raise RecipeError(
            f"{place}: data.validation_share {recipe.data.validation_share} of its "
            f"{len(train)} training examples is none of them; give a larger share"
        )
    if recipe.optimizer.schedule == "plateau" and not val:
        raise RecipeError(
            f"{place}: no example validates, and schedule 'plateau' waits for that: give "
            "data.validation_share or another schedule"
        )


def _fraction(
    examples: Sequence[Example], indices: Sequence[int], fraction: float, seed: int
) -> list[int]:
    """That share of each class, at least one example of it."""
    rng = np.random.default_rng([seed, 7])
    by_label: dict[tuple[str, ...], list[int]] = {}
    for index in indices:
        by_label.setdefault(examples[index].labels, []).append(index)
    kept: list[int] = []
    for _, group in sorted(by_label.items()):
        count = max(1, round(fraction * len(group)))
        kept += rng.permutation(group)[:count].tolist()
    return sorted(kept)
