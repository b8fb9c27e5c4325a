"""Whether loading keeps up: clips per second of the loader alone, beside those of training.

    python -m train prepare packs --root ../shared/data
    python -m benchmarks.loader_speed

The same batches of train/recipes/pretrain_packs_frame.toml from files (decoded each time), from the
cache of decoded recordings and from shards, one process each, in interleaved rounds; then the
training step of the same batch.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import click

from benchmarks.output import write_json
from train.errors import one_line_errors

RECIPE = Path(__file__).parents[1] / "train" / "recipes" / "pretrain_packs_frame.toml"
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--manifests", type=FOLDER, default=Path("runs/manifests"), show_default=True)
@click.option("--clips", default=1000, show_default=True, help="Recordings, drawn by seed 0.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(manifests: Path, clips: int, rounds: int, out: Path | None) -> None:
    """Clips per second from files, cache and shards, and as a ratio to training."""
    import numpy as np
    import torch

    from train.checkpoint import build_model
    from train.data.clips import BatchOrder, ClipBatches
    from train.data.manifest import read_manifest
    from train.data.shards import ShardSource, write_shards
    from train.data.source import ClipSource, FileSource, make_pcm_cache
    from train.optim import make_optimizer
    from train.pretrain import MaskedBatches, PretextObjective
    from train.recipe import PretrainRecipe, load_recipe

    torch.set_num_threads(1)
    with one_line_errors(), tempfile.TemporaryDirectory() as temporary:
        recipe = load_recipe(RECIPE)
        assert isinstance(recipe, PretrainRecipe)
        whole = read_manifest(manifests / recipe.data.manifest)
        chosen = np.random.default_rng(0).permutation(len(whole.examples))[:clips]
        manifest = dataclasses.replace(whole, examples=[whole.examples[i] for i in chosen])
        write_shards(manifest, Path(temporary) / "shards", clips_per_shard=200, jobs=1)
        sources: dict[str, ClipSource] = {
            "files": FileSource(manifest),
            "cache": make_pcm_cache(Path(temporary) / "pcm", manifest, jobs=1),
            "shards": ShardSource(str(Path(temporary) / "shards"), Path(temporary)),
        }
        size = recipe.optimizer.batch_size
        loaders = {
            name: ClipBatches(
                source, manifest.examples, BatchOrder(len(source), size, 0, blocks=source.blocks),
                recipe.clips, recipe.fbank, std=4.0, seed=0,
            )
            for name, source in sources.items()
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in (*loaders, "training")}
        model = build_model(recipe, (), -5.0, 4.0)
        objective = PretextObjective(model, -5.0, 4.0)  # type: ignore[arg-type]
        optimizer = make_optimizer(model, recipe.optimizer)
        masked = MaskedBatches(loaders["cache"], objective.model, 0)
        for number in range(rounds):
            for name, loader in loaders.items():
                start = time.perf_counter()
                loader.batch(number, 0, 1)
                seconds[name].append(time.perf_counter() - start)
            batch = masked.batch(number, 0, 1)
            start = time.perf_counter()
            objective(batch.fbank, batch.target)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds["training"].append(time.perf_counter() - start)
        table = [
            {
                "what": name,
                "clips_per_second": size / statistics.median(seconds[name]),
                "times_training": statistics.median(
                    a / b for a, b in zip(seconds["training"], seconds[name], strict=True)
                ),
            }
            for name in seconds
        ]
        write_json({"batch": size, "window_frames": recipe.clips.num_frames, "rows": table}, out)


if __name__ == "__main__":
    main()
