"""The sections of a report on clips: words classified, sounds tagged, for one or several bundles.

Gives parts of a page, no page: whoever writes the report puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssast_edge.errors import one_line
from ssast_edge.evaluation.bootstrap import Estimate, Interval, paired_bootstrap
from ssast_edge.evaluation.class_scores import Evaluation
from ssast_edge.evaluation.classification import Classification
from ssast_edge.evaluation.clips import RULES, SILENCE_LABEL, UNKNOWN_LABEL
from ssast_edge.evaluation.clips_evaluation import ClipResult
from ssast_edge.evaluation.confusion_chart import confusion_chart
from ssast_edge.evaluation.section import Section, SectionWriter
from ssast_edge.evaluation.tagging import CONDITIONS, Tagging

__all__ = ["clip_sections"]

_MOST_LISTED = 20
_MOST_CONFUSED = 10
_WORD_HEAD = (
    *("bundle", "clips", "rule", "accuracy", "keywords", "unknown", "silence", "weighted"),
    "to the first",
)
_SOUND_HEAD = (
    *("bundle", "scores of", "number", "best label right", "mAP", "mAUC", "d-prime"),
    "to the first",
)
_DASH = "-"


def clip_sections(results: Sequence[ClipResult]) -> list[Section]:
    """What there is to say of the clips, of all bundles side by side, the first the reference."""
    parts: list[Section] = []
    named = [(_title(result, results), result) for result in results]
    words = [(name, one, one.classification) for name, one in named if one.classification]
    if words:
        parts.append(_words([(n, r, c) for n, r, c in words if c is not None]))
    sounds = [(name, one, one.tagging) for name, one in named if one.tagging]
    if sounds:
        parts.append(_sounds([(n, r, t) for n, r, t in sounds if t is not None]))
    return parts


def _words(found: Sequence[tuple[str, ClipResult, Classification]]) -> Section:
    title = "Clips: which word it is"
    page = SectionWriter()
    _, result, first = found[0]
    page.say(
        "Each clip runs through the streaming runtime as a stream of its own, with zeros for the "
        "context before it; the label with the highest score is the clip's. The rule says which "
        "scores are a clip's: those of the last hop where every clip fits into a window, the "
        "highest of its hops where one is longer, unless another was asked for. "
        f"{_brackets(first.evaluation, result)}"
    )
    page.table(
        _WORD_HEAD,
        [
            [
                name,
                str(one.evaluation.num_clips),
                one.rule,
                _percent(one.accuracy),
                _percent(one.parts.get("keywords")),
                _percent(one.parts.get(UNKNOWN_LABEL)),
                _percent(one.parts.get(SILENCE_LABEL)),
                _percent(one.canonical),
                _difference(one, first),
            ]
            for name, _, one in found
        ],
    )
    page.say(
        "Accuracy: all clips alike. Weighted: a tenth as many unknown words and a tenth as many "
        "silent clips as keywords, as in the test set of Speech Commands; a dash where there are "
        "no clips of one of them."
    )
    page.table(
        ["accuracy by the rule", *RULES],
        [[name, *(_percent(one.accuracies[rule]) for rule in RULES)] for name, _, one in found],
    )
    rules = "; ".join(f"{rule}: {text}" for rule, text in RULES.items())
    page.say(f"{rules}. Enough is half a window, or half of a clip that is shorter than one.")
    for name, one_result, one in found:
        page.head(name)
        page.table(
            ["class", "clips", "recall", "precision"],
            [
                [c.name, str(c.positives), _percent(c.recall), _plain_percent(c.precision)]
                for c in one.evaluation.per_class
            ],
        )
        _confusions(page, one.evaluation, f"Confusions of {name}")
        _left_out(page, one_result)
    return page.section(
        "classification",
        title,
        [{**r.facts(), **c.to_json()} for _, r, c in found],
    )


def _sounds(found: Sequence[tuple[str, ClipResult, Tagging]]) -> Section:
    page = SectionWriter()
    _, result, first = found[0]
    evaluation = first.evaluations["mean"]
    page.say(
        "Each clip runs through the streaming runtime as a stream of its own. At clip length the "
        "scores of its hops are averaged, or each label's highest is taken, over the hops that "
        "have heard half a window, or half of a shorter clip. At the streaming window each window "
        "within a clip that is at most 20 dB below the clip's loudest is scored by itself against "
        f"the labels of its clip, at most 20 of a clip. {_brackets(evaluation, result)}"
    )
    page.table(
        _SOUND_HEAD,
        [
            [
                name,
                CONDITIONS[condition],
                str(part.num_clips),
                _best_label(one, condition),
                _number(part.metrics["mAP"]),
                _number(part.metrics["mAUC"]),
                _number(part.metrics["d_prime"], digits=2),
                _difference(one, first) if condition == "mean" else _DASH,
            ]
            for name, _, one in found
            for condition, part in one.evaluations.items()
        ],
    )
    for name, one_result, one in found:
        part = one.evaluations["mean"]
        window = one.evaluations.get("window")
        page.head(name)
        rows = []
        for i, c in enumerate(part.per_class):
            in_window = window.per_class[i].average_precision if window else None
            rows.append(
                [
                    c.name,
                    str(c.positives),
                    _number(c.average_precision),
                    _number(in_window),
                    _plain_number(c.auc.value),
                    _percent(c.recall),
                    _plain_percent(c.precision),
                ]
            )
        page.table(["class", "clips", "AP, clip", "AP, window", "AUC", "recall", "precision"], rows)
        if part.classes_without_positive:
            page.say(
                f"In no mean, for no clip has them: {', '.join(part.classes_without_positive)}."
            )
        _confusions(page, part, f"Confusions of {name}, scores averaged over the clip")
        if one_result.classification is None:
            _left_out(page, one_result)
    return page.section(
        "tagging",
        "Clips: which sound it is",
        [{**r.facts(), **t.to_json()} for _, r, t in found],
    )


def _confusions(page: SectionWriter, found: Evaluation, title: str) -> None:
    if found.confusion is None:
        return
    picture = confusion_chart(found.confusion, found.classes, title=title)
    if picture:
        page.picture(picture, f"{title}: a row is what it was, a column what it was called")
    pairs = sorted(
        (
            (int(found.confusion[i, j]), found.classes[i], found.classes[j])
            for i in range(len(found.classes))
            for j in range(len(found.classes))
            if i != j and found.confusion[i, j]
        ),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    if pairs:
        shown = ", ".join(f"{truth} as {named} {n}" for n, truth, named in pairs[:_MOST_CONFUSED])
        page.say(f"Most confused: {shown}.")


def _left_out(page: SectionWriter, result: ClipResult) -> None:
    if result.left_out:
        shown = ", ".join(f"{k} ({n})" for k, n in list(result.left_out.items())[:_MOST_LISTED])
        more = len(result.left_out) - _MOST_LISTED
        shown += f" and {more} more labels" if more > 0 else ""
        page.say(f"Left out, for the bundle has no label for them: {shown}.")
    if result.unreadable:
        count = len(result.unreadable)
        reasons = "; ".join(one_line(why) for _, why in result.unreadable[:_MOST_LISTED])
        more = count - _MOST_LISTED
        reasons += f"; and {more} more" if more > 0 else ""
        page.say(f"Not scored, {count}: {reasons}.", "warn")


def _best_label(found: Tagging, condition: str) -> str:
    """Clips of several labels have no accuracy, but their best label may be one of them."""
    accuracy = found.evaluations[condition].metrics.get("accuracy")
    if accuracy is None and condition == "mean":
        return _plain_percent(float(found.right.mean()))
    return _percent(accuracy)


def _title(result: ClipResult, results: Sequence[ClipResult]) -> str:
    """Its name; with the version, and a number where even that is not its own."""
    same = [one for one in results if one.name == result.name]
    if len(same) == 1:
        return result.name
    if sum(one.version == result.version for one in same) == 1:
        return f"{result.name} {result.version}"
    number = next(i for i, one in enumerate(same) if one is result)
    return f"{result.name} {result.version} ({number + 1})"


def _brackets(found: Evaluation, result: ClipResult) -> str:
    unit = "clips" if found.num_units == found.num_clips else "speakers or other groups"
    return (
        f"In brackets {100 * found.level:g} % intervals, a bootstrap over {found.num_units} "
        f"{unit}, {found.samples} times, seed {result.seed}."
    )


def _difference(one: Classification | Tagging, first: Classification | Tagging) -> str:
    """Share that is right minus that of the first, on the same clips."""
    if one is first or one.files != first.files:
        return _DASH
    groups = one.speakers if isinstance(one, Classification) else one.groups
    found = paired_bootstrap(one.right, first.right, groups)
    low, high = found.interval.low, found.interval.high
    return f"{100 * found.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) points"


def _percent(found: Estimate | None) -> str:
    if found is None or math.isnan(found.value):
        return _DASH
    return _with_interval(found.interval, f"{100 * found.value:.1f} %", 100, 1)


def _number(found: Estimate | None, digits: int = 3) -> str:
    if found is None or math.isnan(found.value):
        return _DASH
    return _with_interval(found.interval, f"{found.value:.{digits}f}", 1, digits)


def _with_interval(interval: Interval, shown: str, factor: int, digits: int) -> str:
    if math.isnan(interval.low) or math.isnan(interval.high):
        return shown
    return f"{shown} ({factor * interval.low:.{digits}f} to {factor * interval.high:.{digits}f})"


def _plain_percent(value: float) -> str:
    return _DASH if math.isnan(value) else f"{100 * value:.1f} %"


def _plain_number(value: float) -> str:
    return _DASH if math.isnan(value) else f"{value:.3f}"
