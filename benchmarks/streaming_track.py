"""Miss rate and false accepts per hour of a bundle on the held-out test track.

    python -m benchmarks.streaming_track --bundle wake-words --out runs/streaming_track

The track holds every test recording of ../shared/data once (train/packs.py says which), in seeded
order; the bundle runs through the device's streaming runtime. Writes result.json, result.md and
det.png. Test recordings are for the final figure: nothing may be tuned on them.

False accepts are counted over the whole track, its pauses and keyword recordings included:
hours_by_pack in result.json says what the hours are made of.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure
from tqdm import tqdm

from ssast_edge.bundle import load_bundle
from ssast_edge.evaluation.det import det_curve, shifted
from ssast_edge.evaluation.matching import TOLERANCE_S, Score, match
from ssast_edge.evaluation.scores import HopScores, replay, run_bundle
from ssast_edge.evaluation.track import Track
from ssast_edge.trigger import TriggerConfig
from train.errors import one_line_errors
from train.triggers import make_conditions

# Shifts of every threshold, as logits: an eager, the shipped and a strict setting.
SETTINGS = {"eager": -1.0, "shipped": 0.0, "strict": 1.0}


def score(track: Track, hops: HopScores, triggers: Mapping[str, TriggerConfig]) -> dict[str, Score]:
    """Scores of "all" and of each label."""
    events = replay(hops, triggers)
    labels: list[str | None] = [None, *triggers]
    return {
        label or "all": match(track.words, events, hours=track.hours, label=label)
        for label in labels
    }


def source_at(track: Track, time_s: float) -> str:
    """The clip that plays at a time."""
    started = [f"{s.pack} {s.name}" for s in track.sources if s.start_s <= time_s]
    return started[-1] if started else "start"


def hours_by_pack(track: Track) -> dict[str, float]:
    """Length of the track by the pack of its clips, each with the pause that follows it."""
    starts = [source.start_s for source in track.sources] + [3600 * track.hours]
    hours: dict[str, float] = defaultdict(float)
    for source, end in zip(track.sources, starts[1:], strict=True):
        hours[source.pack] += (end - source.start_s) / 3600
    return {pack: round(hours[pack], 3) for pack in sorted(hours)}


def markdown(result: dict[str, Any]) -> str:
    """Tables for docs/results.md."""
    lines = []
    for condition, settings in result["conditions"].items():
        lines += [
            f"\n{condition}:\n",
            "| keyword | setting | words | missed | miss rate (95 %) "
            "| false accepts | per hour (95 %) | delay p50 / p99 |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for setting, labels in settings.items():
            for label, s in labels.items():
                low, high = s["miss_rate_95"]
                few, many = s["false_accepts_per_hour_95"]
                lines.append(
                    f"| {label} | {setting} | {s['words']} | {s['missed']} "
                    f"| {s['miss_rate']:.1%} ({low:.1%} to {high:.1%}) | {s['false_accepts']} "
                    f"| {s['false_accepts_per_hour']:.2f} ({few:.2f} to {many:.2f}) "
                    f"| {s['delay_p50_s']} / {s['delay_p99_s']} s |"
                )
    return "\n".join(lines) + "\n"


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """DET: miss rate against false accepts per hour while all thresholds move together."""
    figure = Figure(figsize=(7, 5))
    axes = figure.add_subplot()
    for name, points in curves.items():
        x, y = zip(*points, strict=True)
        axes.plot(x, [100 * v for v in y], marker=".", label=name)
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_xlabel("false accepts per hour (linear below 0.5)")
    axes.set_ylabel("missed words (%)")
    axes.set_ylim(0, 25)  # above, too few words are left for a curve
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--bundle", default="wake-words", show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True
)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/streaming_track"))
def main(bundle: str, data: Path, seed: int, out: Path) -> None:
    """Run the test track."""
    with one_line_errors():
        out.mkdir(parents=True, exist_ok=True)  # first: the run takes minutes
        result, curves = measure(bundle, data, seed)
        (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        (out / "result.md").write_text(markdown(result))
        draw(curves, out / "det.png")
    click.echo(markdown(result))
    click.echo(f"track: {result['track_hours']} h; {out}/result.json, result.md, det.png")


def measure(
    bundle: str, data: Path, seed: int
) -> tuple[dict[str, Any], dict[str, list[tuple[float, float]]]]:
    """The figures, and (false accepts per hour, miss rate) over all settings by condition."""
    loaded = load_bundle(bundle)
    track, conditions = make_conditions(data, "test", loaded.labels, seed=seed)
    result: dict[str, Any] = {
        "bundle": loaded.name,
        "version": loaded.version,
        "seed": seed,
        "track_hours": round(track.hours, 3),
        "hours_by_pack": hours_by_pack(track),
        "tolerance_s": TOLERANCE_S,
        "triggers": {label: asdict(trigger) for label, trigger in loaded.triggers.items()},
        "conditions": {},
        "false_accept_sources": {},
        "missed": {},
    }
    curves: dict[str, list[tuple[float, float]]] = {}
    for condition, samples in conditions.items():
        with tqdm(total=len(samples), desc=condition, unit="sample", unit_scale=True) as progress:
            hops = run_bundle(loaded, samples, progress.update)
        settings = {
            name: score(track, hops, shifted(loaded.triggers, shift))
            for name, shift in SETTINGS.items()
        }
        result["conditions"][condition] = {
            name: {label: s.summary() for label, s in labels.items()}
            for name, labels in settings.items()
        }
        shipped = settings["shipped"]["all"]
        result["false_accept_sources"][condition] = [
            f"{at:.2f} s: {source_at(track, at)}" for at in shipped.false_times_s
        ]
        result["missed"][condition] = [
            f"{w.label} {w.source} at {w.start_s:.2f} s" for w in shipped.missed
        ]
        curves[condition] = [
            (point.false_accepts_per_hour, point.miss_rate)
            for point in det_curve([(hops, track)], loaded.triggers)
        ]
    return result, curves


if __name__ == "__main__":
    main()
