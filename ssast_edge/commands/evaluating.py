"""What `eval` does: data, models, the track, the clips, the report; progress on stderr."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from typing import Any

import click

from ssast_edge.backends import open_backend
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.clock import clock
from ssast_edge.commands.interrupts import held_signals
from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.clips import Rule
from ssast_edge.evaluation.clips_evaluation import ClipResult, count_clips, evaluate_clips
from ssast_edge.evaluation.clips_report import clip_sections
from ssast_edge.evaluation.evaluate import EvaluationConfig, evaluate_track
from ssast_edge.evaluation.external import check_command
from ssast_edge.evaluation.manifest import read_recordings
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.report import write_report
from ssast_edge.evaluation.runs import Runner
from ssast_edge.evaluation.section import Section
from ssast_edge.evaluation.track_sections import track_sections

__all__ = ["Evaluation", "evaluate"]

_EVERY_S = {True: 0.2, False: 30.0}  # between two signs of progress: on a terminal, in a log


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was asked for. model: of `open_backend`."""

    bundles: tuple[str, ...]
    data: Path
    out: Path
    split: str | None
    protocol: str
    conditions: tuple[str, ...]
    externals: Mapping[str, str]
    hours: float | None
    seed: int
    clips: bool
    clip_rule: Rule | None
    command: str
    model: Mapping[str, Any]


def evaluate(wanted: Evaluation) -> tuple[str, Path]:
    """Do it all; the first part of the report as Markdown, and the page's path."""
    recordings = read_recordings(wanted.data, split=wanted.split)
    for name, command in wanted.externals.items():
        check_command(name, command)
    bundles = _named([load_bundle(name) for name in wanted.bundles], wanted.externals)
    with ExitStack() as stack:
        runners = {}
        for name, bundle in bundles.items():
            with held_signals():
                backend = open_backend(bundle, **wanted.model)
            stack.callback(backend.close)
            runners[name] = Runner(bundle, backend)
        config = EvaluationConfig(
            source=str(wanted.data),
            out=wanted.out,
            split=wanted.split,
            protocol=wanted.protocol,
            conditions=wanted.conditions,
            hours=wanted.hours,
            seed=wanted.seed,
            externals=wanted.externals,
        )
        found = evaluate_track(
            runners, recordings, config, progress=progress, warn=lambda text: _say(f"note: {text}")
        )
        extra, notes = _clips(runners, recordings, wanted)
        found["warnings"] += notes
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    report = {"created": made, "command": wanted.command, **found}
    sections = track_sections(report)
    page = write_report(wanted.out, report, [*sections, *extra])
    return sections[0].markdown, page


@contextmanager
def progress(title: str, total: float) -> Iterator[Callable[[float], object]]:
    """Lines on stderr, one that changes on a terminal."""
    is_terminal = sys.stderr.isatty()
    began = told = monotonic()
    done = 0.0

    def step(amount: float) -> None:
        nonlocal done, told
        done += amount
        now = monotonic()
        if now - told >= _EVERY_S[is_terminal] and done > 0:
            told = now
            left_s = (now - began) * (total - done) / done
            show(f"{title}: {100 * done / total:.0f} %, {clock(max(left_s, 0), digits=0)} left")

    def show(text: str) -> None:
        click.echo(f"\r\x1b[2K{text}" if is_terminal else text, err=True, nl=not is_terminal)

    show(title)
    try:
        yield step
    finally:
        if is_terminal:
            click.echo("\r\x1b[2K", err=True, nl=False)
    _say(f"{title}: done in {clock(monotonic() - began, digits=0)}")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _named(bundles: Sequence[Bundle], taken: Mapping[str, str]) -> dict[str, Bundle]:
    """Bundles by a name that tells them apart."""
    named: dict[str, Bundle] = {}
    names = [bundle.name for bundle in bundles]
    for bundle in bundles:
        name = bundle.name
        if [other.path.resolve() for other in bundles].count(bundle.path.resolve()) > 1:
            raise click.UsageError(f"bundle {bundle.path} is given twice")
        if names.count(name) > 1 or name in taken:
            name = f"{name} ({bundle.path.name})"
        if name in named:
            name = str(bundle.path)
        named[name] = bundle
    return named


def _clips(
    runners: Mapping[str, Runner], recordings: Sequence[Recording], wanted: Evaluation
) -> tuple[list[Section], list[str]]:
    """What the clips come to by themselves: for taggers always, for others when asked.

    And what was wrong with them: the track has been measured by now, its report is not lost.
    """
    results: list[ClipResult] = []
    notes: list[str] = []
    for name, runner in runners.items():
        if not wanted.clips and runner.bundle.task != "audio-tagging":
            continue
        try:
            with progress(f"clips: {name}", count_clips(runner.bundle, recordings)) as step:
                found = evaluate_clips(
                    runner.bundle, recordings, name=name, backend=runner.backend,
                    rule=wanted.clip_rule, seed=wanted.seed, progress=step,
                )  # fmt: skip
            results.append(found)
        except SsastEdgeError as error:
            notes.append(f"{name}, clips: {error}")
            _say(f"note: {notes[-1]}")
    return clip_sections(results), notes
