"""Bundles and other detectors on the same audio: misses at equal false accepts, and CPU time.

    python -m benchmarks.field_comparison --data eval.csv --split val \
        --external "Porcupine=PORCUPINE/bin/python benchmarks/detectors/detect_porcupine.py" \
        --external "PocketSphinx=SPHINX/bin/python benchmarks/detectors/detect_pocketsphinx.py"

The other detectors have environments of their own (benchmarks/detectors/README.md). Writes
result.json, result.md and det.png into --out; what is finished there is not run again. All
thresholds of a detector move together, and at each rate of false accepts stands the setting that
missed least. CPU time is that of detection with one setting: of a bundle without putting the audio
together, of a program all that it used divided by its passes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.backends import open_backend
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.evaluation.conditions import condition_name, needs_noise
from ssast_edge.evaluation.curves import SHIFTS, Point, best_within, points_of_events, together
from ssast_edge.evaluation.delays import quantiles
from ssast_edge.evaluation.det import shifted
from ssast_edge.evaluation.external import check_command, run_detector
from ssast_edge.evaluation.firing import smooth
from ssast_edge.evaluation.intervals import miss_interval
from ssast_edge.evaluation.manifest import read_recordings
from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.noise import is_steady
from ssast_edge.evaluation.protocols import PROTOCOLS
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.runs import bundle_key
from ssast_edge.evaluation.scores import HopScores
from ssast_edge.evaluation.track import SAMPLE_RATE, Track
from ssast_edge.spotter import Detection, Spotter
from train.errors import one_line_errors
from train.plots import save_figure

RATES = (0.1, 0.4, 0.5, 1.0)  # false accepts an hour
BLOCK = 5 * SAMPLE_RATE

Events = Mapping[float, Sequence[Detection]]
Progress = Callable[[float], object]  # called with the share that is done


@dataclass(frozen=True)
class Outcome:
    """Events of each setting, and CPU seconds for an hour of audio with one setting."""

    events: Events
    cpu_s_per_hour: float


@dataclass(frozen=True)
class Contestant:
    """A detector: `run` takes audio; key changes with whatever its events depend on."""

    name: str
    key: str
    run: Callable[[Audio, Progress], Outcome]


def of_bundle(name: str, labels: Sequence[str]) -> Contestant:
    """A bundle on one thread, all its thresholds shifted by the same logits."""
    bundle = load_bundle(name)
    missing = sorted(set(labels) - set(bundle.triggers))
    if missing:
        raise ValueError(f"bundle {bundle.name} has no trigger for {missing[0]}")
    backend = open_backend(bundle, kind="onnx")
    key = json.dumps([bundle_key(bundle, backend.name), repr(dict(bundle.triggers))])

    def run(audio: Audio, progress: Progress) -> Outcome:
        times: list[float] = []
        scores: list[NDArray[np.float32]] = []

        def keep(time_s: float, values: NDArray[np.float32]) -> None:
            times.append(time_s)
            scores.append(values.copy())

        spotter = Spotter(bundle, backend=backend, on_scores=keep)
        cpu_seconds = 0.0
        for first in range(0, len(audio), BLOCK):
            block = audio[first : first + BLOCK]
            begin = time.process_time()
            spotter.push(block)
            cpu_seconds += time.process_time() - begin
            progress((first + len(block)) / len(audio))
        hops = HopScores(bundle.labels, np.array(times), np.array(scores, np.float32))
        events = {shift: _events(bundle, hops, shift, labels) for shift in SHIFTS}
        return Outcome(events, cpu_seconds / (len(audio) / SAMPLE_RATE / 3600))

    return Contestant(f"{bundle.name} {bundle.version}, {backend.name}", key, run)


def _events(
    bundle: Bundle, hops: HopScores, shift: float, labels: Sequence[str]
) -> list[Detection]:
    found = []
    for label, config in shifted(bundle.triggers, shift).items():
        if label in labels:
            column = hops.scores[:, hops.labels.index(label)]
            smoothed = smooth(hops.times_s, column, config.smoothing_ms)
            for hop in smoothed.fired(config).tolist():
                found.append(Detection(label, float(hops.times_s[hop]), float(smoothed.means[hop])))
    return found


def of_command(text: str, labels: Sequence[str]) -> Contestant:
    """Another program, NAME=COMMAND."""
    name, separator, command = text.partition("=")
    if not separator or not name.strip():
        raise ValueError(f"--external: wanted NAME=COMMAND, got {text!r}")
    check_command(name.strip(), command)

    def run(audio: Audio, progress: Progress) -> Outcome:
        found = run_detector(name.strip(), command, audio, labels=labels, progress=progress)
        if not found.settings:
            raise ValueError(f"{name}: told of no setting")
        return Outcome(found.events, found.cpu_seconds_per_hour)

    return Contestant(name.strip(), text, run)


def assemble(
    recordings: Sequence[Recording], protocol: str, hours: float | None, seed: int
) -> tuple[Track, Callable[[str], Audio], dict[str, int]]:
    """The track, its audio by condition, and what the protocol tells of the recordings."""
    rules = PROTOCOLS[protocol]
    played = [r for r in recordings if r.kind != "noise"]
    with tqdm(total=len(played), desc="recordings") as bar:
        track = rules.build(
            played,
            seed=seed,
            hours=hours,
            on_unreadable=lambda recording, reason: tqdm.write(f"left out: {reason}"),
            progress=bar.update,
        )
    noise: list[NDArray[np.float32]] = []

    def audio(name: str) -> Audio:
        if needs_noise(name) and not noise:
            clips = (read_audio(r.path) for r in recordings if r.kind == "noise")
            noise.extend(clip for clip in clips if is_steady(clip))
        return rules.hear(name, track, noise, seed)

    return track, audio, dict(rules.told(played, track))


def outcome(contestant: Contestant, key: str, audio: Audio, out: Path, title: str) -> Outcome:
    """Run the detector, or take what it gave before."""
    digest = hashlib.sha256(json.dumps([contestant.key, key]).encode()).hexdigest()
    kept = out / "runs" / f"{digest[:32]}.json"
    if kept.exists():
        stored = json.loads(kept.read_text())
        events = {
            float(setting): [Detection(*values) for values in found]
            for setting, found in stored["events"].items()
        }
        return Outcome(events, stored["cpu_s_per_hour"])
    with tqdm(total=100, desc=title, unit="%", bar_format="{l_bar}{bar}| {elapsed}") as bar:
        found = contestant.run(audio, lambda share: bar.update(int(100 * share) - bar.n))
    stored = {
        "detector": title,
        "cpu_s_per_hour": found.cpu_s_per_hour,
        "events": {
            str(setting): [[d.label, d.time_s, d.score] for d in events]
            for setting, events in found.events.items()
        },
    }
    _write(kept, json.dumps(stored))
    return found


def figures(found: Outcome, track: Track, labels: Sequence[str]) -> dict[str, Any]:
    """Counts of every setting, and what is reached at each of RATES."""
    curve = together(points_of_events(found.events, track.words, labels, track.hours))
    operating = []
    for rate in RATES:
        point = best_within(curve, rate)
        delays: tuple[float, ...] = ()
        if point is not None:
            events = found.events[point.setting]
            delays = match(track.words, events, hours=track.hours).delays_s
        operating.append(
            {"per_hour": rate, "point": point and point.to_json(), "delay": quantiles(delays)}
        )
    return {
        "cpu_s_per_hour": round(found.cpu_s_per_hour, 2),
        "operating": operating,
        "curve": [point.to_json() for point in sorted(curve, key=_by_false_accepts)],
        "by_keyword": {
            label: [
                (best := best_within(curve, rate)) and best.to_json() for rate in RATES
            ]
            for label, curve in points_of_events(
                found.events, track.words, labels, track.hours
            ).items()
        },
    }  # fmt: skip


def _by_false_accepts(point: Point) -> tuple[int, int]:
    return point.false_accepts, point.missed


def markdown(result: dict[str, Any]) -> str:
    """A table for each condition."""
    lines = [f"{result['words']} words in {result['hours']:.2f} h, {result['protocol']} protocol"]
    for condition, detectors in result["conditions"].items():
        rates = "".join(f" | missed at {rate:g}/h" for rate in RATES)
        lines += [
            "",
            f"{condition}:",
            "",
            f"| detector{rates} | delay p50 / p99 at {RATES[-1]:g}/h | CPU s per hour (ratio) |",
            "|---" * (len(RATES) + 3) + "|",
        ]
        first = next(iter(detectors.values()))["cpu_s_per_hour"]
        for name, found in detectors.items():
            cells = [_cell(one["point"]) for one in found["operating"]]
            delay = found["operating"][-1]["delay"]
            shown = f"{delay['p50']:.2f} / {delay['p99']:.2f} s" if delay else "-"
            cost = found["cpu_s_per_hour"]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {shown} | {cost:.1f} ({cost / first:.2f}) |"
            )
    return "\n".join(lines) + "\n"


def _cell(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return "-"
    low, high = miss_interval(point["missed"], point["words"])
    return (
        f"{point['miss_rate']:.1%} ({low:.1%} to {high:.1%}; {point['missed']} missed, "
        f"{point['false_accepts']} false)"
    )


def draw(result: dict[str, Any]) -> Figure:
    """A DET plot for each condition."""
    conditions = result["conditions"]
    figure = Figure(figsize=(5.6 * len(conditions), 4.4), layout="constrained")
    axes = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for axis, (condition, detectors) in zip(axes, conditions.items(), strict=True):
        for number, (name, found) in enumerate(detectors.items()):
            best: list[tuple[float, float, float, float]] = []
            for p in found["curve"]:
                if not best or 100 * p["miss_rate"] < best[-1][1]:
                    low, high = (100 * x for x in p["miss_rate_95"])
                    best.append((p["false_accepts_per_hour"], 100 * p["miss_rate"], low, high))
            x, y, low, high = np.array(best).T
            colour = f"C{number}"
            axis.step(x, y, where="post", color=colour, alpha=0.6)
            axis.errorbar(
                x, y, [y - low, high - y], fmt=".", color=colour, elinewidth=0.7, label=name
            )
        axis.set_xscale("symlog", linthresh=1 / result["hours"])
        axis.set_xlim(left=-0.2 / result["hours"])
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_title(condition)
        axis.set_xlabel("false accepts an hour (linear up to one in the track)")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)  # after all curves: it ends the scaling of the shared axis
    axes[0].set_ylabel("missed words (%), 95 % intervals")
    axes[-1].legend(fontsize=8)
    return figure


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text)
    partial.replace(path)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="as for eval")
@click.option("--split", help="of the manifest")
@click.option("--bundle", "bundles", multiple=True, default=("wake-words",), show_default=True)
@click.option("--external", "commands", multiple=True, help="NAME=COMMAND; repeatable")
@click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default="strict")
@click.option("--hours", type=float, help="length of the track")
@click.option("--condition", "conditions", multiple=True, default=("clean", "10dB"))
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/field_comparison"))
def main(
    data: Path,
    split: str | None,
    bundles: tuple[str, ...],
    commands: tuple[str, ...],
    protocol: str,
    hours: float | None,
    conditions: tuple[str, ...],
    seed: int,
    out: Path,
) -> None:
    """Compare detectors."""
    with one_line_errors():
        recordings = read_recordings(data, split=split)
        labels = sorted({r.label for r in recordings if r.kind == "keyword"})
        contestants = [of_bundle(name, labels) for name in bundles]
        contestants += [of_command(text, labels) for text in commands]
        names = [condition_name(name) for name in conditions]
        track, audio, told = assemble(recordings, protocol, hours, seed)
        result: dict[str, Any] = {
            "data": data.name,
            "split": split,
            "protocol": protocol,
            "seed": seed,
            "hours": round(track.hours, 4),
            "words": len(track.words),
            "told": told,
            "conditions": {},
        }
        for name in names:
            heard = audio(name)
            result["conditions"][name] = {
                one.name: figures(
                    outcome(one, f"{track.key} {name} {seed}", heard, out, f"{name}, {one.name}"),
                    track,
                    labels,
                )
                for one in contestants
            }
        _write(out / "result.json", json.dumps(result, indent=2) + "\n")
        _write(out / "result.md", markdown(result))
        save_figure(draw(result), out / "det.png")
    click.echo(markdown(result))
    click.echo(f"{out}/result.json, result.md, det.png")


if __name__ == "__main__":
    main()
