"""Solves triggers for a target of false accepts per hour, and says what the hours can show.

A threshold that was set by a recording fires less often in that recording than it will later: set
just above the loudest false peak but n, it has n false accepts there, and n + 1 are to be expected
in as many hours again (the rate is Gamma distributed with shape n + 1, whose upper quantile is the
exact Poisson bound of n events). So a keyword whose trigger is changed costs its count and one
more, one that keeps the bundle's trigger costs its count. The costs of all keywords share one
budget; they are spent where they save the most misses (dynamic programming, exact).

The choice among smoothings and numbers of hits, and of how the budget is shared, is made on the
same recording too; the bound does not count that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ssast_edge.calibration.evidence import Evidence
from ssast_edge.calibration.expected import Expected, MissTable
from ssast_edge.calibration.grid import THRESHOLDS, families, family_of, logit
from ssast_edge.calibration.room import Firing, Room
from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.intervals import rate_interval
from ssast_edge.trigger import TriggerConfig


class CannotShow(SsastEdgeError):
    """The hours that were heard cannot show what is wanted."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is wanted."""

    target: float  # false accepts per hour
    confidence: float = 0.95  # of upper bounds (one-sided) and of intervals of misses
    is_strict: bool = False  # the upper bound must meet the target, not the expected rate
    is_per_keyword: bool = False  # the target is for each keyword, not for all together


@dataclass(frozen=True)
class Outcome:
    """One keyword."""

    label: str
    before: TriggerConfig
    after: TriggerConfig
    before_count: int  # false accepts in the room
    firings: tuple[Firing, ...]  # with the trigger as it is now
    upper_per_hour: float
    before_expected: tuple[Expected, ...]
    expected: tuple[Expected, ...]

    @property
    def is_changed(self) -> bool:
        """Whether the recording set the trigger."""
        return self.after != self.before


@dataclass(frozen=True)
class Solution:
    """What was found for all keywords."""

    goal: Goal
    hours: float
    outcomes: tuple[Outcome, ...]

    @property
    def count(self) -> int:
        """False accepts in the room, of all keywords."""
        return sum(len(outcome.firings) for outcome in self.outcomes)

    @property
    def expected_per_hour(self) -> float:
        """What is to be expected from now on."""
        changed = sum(outcome.is_changed for outcome in self.outcomes)
        return (self.count + changed) / self.hours

    @property
    def upper_per_hour(self) -> float:
        """The upper bound of all keywords together."""
        changed = sum(outcome.is_changed for outcome in self.outcomes)
        shape = self.count + changed + (changed < len(self.outcomes))
        return upper_rate(shape, self.hours, self.goal.confidence)


def upper_rate(shape: int, hours: float, confidence: float) -> float:
    """Upper bound of a rate per hour; shape: 1 and the events, of one that was not solved."""
    return rate_interval(shape - 1, hours, 2 * confidence - 1)[1]


def hours_for(target: float, confidence: float) -> float:
    """Hours without any event that show a rate below the target."""
    return upper_rate(1, 1.0, confidence) / target


def solve(
    room: Room,
    triggers: Mapping[str, TriggerConfig],
    goal: Goal,
    table: MissTable,
) -> Solution:
    """The trigger of each of these keywords.

    Raises CannotShow when no setting can be shown to meet the goal in these hours.
    """
    _check_hours(room.hours, goal)
    chosen: dict[str, TriggerConfig] = {}
    most = _budget(room.hours, goal)
    options = {
        label: _options(room, label, trigger, table, most) for label, trigger in triggers.items()
    }
    groups = [[label] for label in triggers] if goal.is_per_keyword else [list(triggers)]
    for group in groups:
        found = _share([options[label] for label in group], room.hours, goal)
        if found is None:
            raise CannotShow(_why_not(room, {k: triggers[k] for k in group}, goal))
        chosen.update(zip(group, found, strict=True))
    outcomes = [
        _outcome(room, label, trigger, chosen[label], goal, table)
        for label, trigger in triggers.items()
    ]
    return Solution(goal, room.hours, tuple(outcomes))


@dataclass(frozen=True)
class _Option:
    """A setting of one keyword. loss: misses, then how deaf it is where misses are not known."""

    config: TriggerConfig
    cost: int
    is_changed: bool
    loss: tuple[float, float]


def _check_hours(hours: float, goal: Goal) -> None:
    if not hours > 0:
        raise CannotShow("nothing was heard: there is no audio to calibrate on")
    needed = hours_for(goal.target, goal.confidence) if goal.is_strict else 1 / goal.target
    if hours >= needed * (1 - 1e-9):
        return
    shown = upper_rate(1, hours, goal.confidence)
    why = (
        f"0 false accepts in {hours:.3g} h mean below {shown:.3g} per hour at "
        f"{100 * goal.confidence:g} %"
    )
    if not goal.is_strict:
        why += ", and a single one would be more than the target"
    raise CannotShow(
        f"{hours:.3g} h cannot show {goal.target:g} false accepts per hour: {why}; record at "
        f"least {_up(needed)} h, or ask for less with --target"
    )


def _budget(hours: float, goal: Goal) -> int:
    """The most that all costs may come to (strict: the largest shape that meets the target)."""
    if not goal.is_strict:
        return math.floor(goal.target * hours + 1e-9)
    shape = 0
    while upper_rate(shape + 1, hours, goal.confidence) <= goal.target * (1 + 1e-9):
        shape += 1
    return shape


def _options(
    room: Room, label: str, before: TriggerConfig, table: MissTable, most: int
) -> list[_Option]:
    """The settings of one keyword that may be chosen: for each cost the best, and the present."""
    is_known = table.miss_rate(label, before) is not None
    evidence = Evidence(room, label, before.smoothing_ms)
    present = len(evidence.firings(before))
    options = [_Option(before, present, False, _loss(label, before, table))]
    for family in sorted(families([before]), key=lambda family: family.smoothing_ms):
        ms = family.smoothing_ms
        base = replace(before, smoothing_ms=ms, min_hits=family.min_hits)
        if family != family_of(before) and (not is_known or table.miss_rate(label, base) is None):
            continue  # nobody can say what it would miss
        if not evidence.is_of(base):
            evidence = Evidence(room, label, ms)
        worst = 0  # the count at this threshold or any higher one: lower never counts as quieter
        ladder: list[_Option] = []
        for threshold in reversed(THRESHOLDS):
            config = replace(base, threshold=threshold)
            worst = max(worst, len(evidence.firings(config, limit=most + 1)))
            if worst + 1 > most:
                break
            ladder.append(_Option(config, worst + 1, True, _loss(label, config, table)))
        options += _best_of(ladder, is_known)
    return options


def _best_of(ladder: Sequence[_Option], is_known: bool) -> list[_Option]:
    """For each cost the best of one family, whose thresholds fall and whose costs rise.

    Where several thresholds miss the same words the one in the middle is taken: as far from the
    room's peaks as from the words'.
    """
    found = []
    for cost in sorted({option.cost for option in ladder}):
        affordable = [option for option in ladder if option.cost <= cost]
        best = min(option.loss for option in affordable)
        tied = [option for option in affordable if option.loss == best]
        found.append(tied[len(tied) // 2] if is_known else tied[-1])
    return found


def _loss(label: str, config: TriggerConfig, table: MissTable) -> tuple[float, float]:
    missed = table.miss_rate(label, config)
    return (0.0, logit(config.threshold)) if missed is None else (round(missed, 9), 0.0)


def _share(
    keywords: Sequence[Sequence[_Option]], hours: float, goal: Goal
) -> list[TriggerConfig] | None:
    """The best option of each keyword whose costs together fit the budget; None: nothing does."""
    budget = _budget(hours, goal)
    if not goal.is_strict:
        found = _cheapest(keywords, budget)
    else:
        # The shape of the bound is the sum of the costs, and 1 if any trigger is as it was.
        changed = [[option for option in options if option.is_changed] for options in keywords]
        found = min(
            filter(None, [_cheapest(keywords, budget - 1), _cheapest(changed, budget)]),
            key=lambda choice: choice[0],
            default=None,
        )
    return None if found is None else [option.config for option in found[1]]


_Choice = tuple[tuple[float, ...], list[_Option]]


def _cheapest(keywords: Sequence[Sequence[_Option]], budget: int) -> _Choice | None:
    """The least loss with costs of at most `budget`, then the least cost and delay."""
    best: dict[int, _Choice] = {0: ((0.0, 0.0, 0.0, 0.0), [])}  # by what was spent
    for options in map(_worth_their_cost, keywords):
        after: dict[int, _Choice] = {}
        for spent, (loss, choice) in best.items():
            for option in options:
                total = spent + option.cost
                if total > budget:
                    continue
                added = (*option.loss, float(option.cost), family_of(option.config).wait_ms)
                now = tuple(round(x + y, 9) for x, y in zip(loss, added, strict=True))
                if total not in after or now < after[total][0]:
                    after[total] = now, [*choice, option]
        best = after
    return min(best.values(), key=lambda choice: choice[0], default=None)


def _worth_their_cost(options: Sequence[_Option]) -> list[_Option]:
    """Those that lose less than every cheaper one."""
    found: list[_Option] = []
    for option in sorted(options, key=lambda o: (o.cost, o.loss, family_of(o.config).wait_ms)):
        if not found or option.loss < found[-1].loss:
            found.append(option)
    return found


def _outcome(
    room: Room,
    label: str,
    before: TriggerConfig,
    after: TriggerConfig,
    goal: Goal,
    table: MissTable,
) -> Outcome:
    firings = tuple(room.firings(label, after))  # by the trigger itself
    return Outcome(
        label,
        before,
        after,
        len(room.firings(label, before)),
        firings,
        upper_rate(len(firings) + 1, room.hours, goal.confidence),
        table.expected(label, before),
        table.expected(label, after),
    )


def _why_not(room: Room, triggers: Mapping[str, TriggerConfig], goal: Goal) -> str:
    counts = {label: len(room.firings(label, trigger)) for label, trigger in triggers.items()}
    loud = [f"{label} {count}" for label, count in counts.items() if count]
    changed = len(loud)
    if goal.is_strict:
        shape = changed + (changed < len(triggers))
        needed = upper_rate(max(1, shape), 1.0, goal.confidence) / goal.target
    else:
        needed = changed / goal.target
    heard = f"false accepts in {room.hours:.3g} h with the present triggers: {', '.join(loud)}"
    if not loud:
        heard = "no false accept with the present triggers"
    if needed <= room.hours:
        return (
            f"no trigger of the grid meets {goal.target:g} false accepts per hour in this room "
            f"({heard}): is the keyword said in the recording?"
        )
    return (
        f"{room.hours:.3g} h cannot show {goal.target:g} false accepts per hour ({heard}; each "
        f"trigger that is set by the recording counts for one more): record at least "
        f"{_up(needed)} h, or ask for less with --target"
    )


def _up(hours: float) -> str:
    """Hours rounded up to three digits."""
    scale = 10 ** (math.floor(math.log10(hours)) - 2)
    return f"{math.ceil(hours / scale - 1e-9) * scale:.10g}"
