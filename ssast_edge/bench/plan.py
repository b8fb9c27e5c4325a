"""What is measured: the grid of bundles, models, threads and batch sizes, and for how long."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ssast_edge.bundle import Bundle
from ssast_edge.errors import SsastEdgeError

_UNITS_S = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?")
MAX_DURATION_S = 30 * 24 * 3600


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One cell of the grid."""

    bundle: Bundle
    label: str  # the bundle's name, made different from that of another bundle of that name
    backend: str  # "onnx", "tensorrt"
    precision: str
    threads: int
    batch: int

    @property
    def name(self) -> str:
        """For people, and the same in every run: "wake-words onnx fp32 1 thread"."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        batch = f" batch {self.batch}" if self.batch > 1 else ""
        return f"{self.label} {self.backend} {self.precision} {threads}{batch}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is asked for; an empty tuple stands for every model of the bundle."""

    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long it is measured, over all cases together."""

    duration_s: float = 20.0
    count: int | None = None  # inferences of each case in place of a time
    warm_up_s: float = 10.0  # at most, for each case

    def __post_init__(self) -> None:
        """Refuse a budget that nothing fits in."""
        if not 0 < self.duration_s <= MAX_DURATION_S:
            raise ValueError(f"duration_s must be above 0 and at most 30 days: {self.duration_s}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")


def expand(bundles: Sequence[Bundle], grid: Grid) -> list[Case]:
    """Every case of the grid, each once, in the order in which they are compared.

    A backend or precision that is asked for is a case too when the bundle has no such model:
    whoever opens it hears why it cannot run. The threads of a GPU's backend are those of the
    host, so it is one case.
    """
    cases: list[Case] = []
    seen: set[tuple[int, str, str, int, int]] = set()
    for index, (bundle, label) in enumerate(zip(bundles, _labels(bundles), strict=True)):
        for backend, precision in _models(bundle, grid):
            for threads in grid.threads if backend == "onnx" else grid.threads[:1]:
                for batch in grid.batches:
                    key = (index, backend, precision, threads, batch)
                    if key not in seen:
                        seen.add(key)
                        cases.append(
                            Case(
                                bundle=bundle,
                                label=label,
                                backend=backend,
                                precision=precision,
                                threads=threads,
                                batch=batch,
                            )
                        )
    return cases


def parse_duration(text: str) -> float:
    """Seconds of "90", "90s", "30m", "1.5h" or "500ms". Raises SsastEdgeError for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = float(match[1]) * _UNITS_S[match[2] or ""] if match else 0.0
    if not 0 < seconds <= MAX_DURATION_S:
        raise SsastEdgeError(
            f"duration {text!r} is not a time such as 20s, 30m or 1h (above 0, at most 30 days)"
        )
    return seconds


def _labels(bundles: Sequence[Bundle]) -> list[str]:
    """Names; from the second bundle of a name on with its number among them."""
    labels: list[str] = []
    names: list[str] = []
    for bundle in bundles:
        names.append(bundle.name)
        number = names.count(bundle.name)
        labels.append(bundle.name if number == 1 else f"{bundle.name} #{number}")
    return labels


def _models(bundle: Bundle, grid: Grid) -> list[tuple[str, str]]:
    held = [(model.backend, model.precision) for model in bundle.models]
    backends = grid.backends or tuple(dict.fromkeys(backend for backend, _ in held))
    models = []
    for backend in backends:
        of_backend = [precision for kind, precision in held if kind == backend]
        if backend == "tensorrt" and not of_backend:
            from ssast_edge.engines.cache import tensorrt_models

            of_backend = [model.precision for model in tensorrt_models(bundle)]
        wanted = grid.precisions or tuple(of_backend) or ("any precision",)
        models += [(backend, precision) for precision in wanted]
    if grid.backends or not grid.precisions:
        return models
    # Only a precision was asked for: where one backend lacks it, another has it.
    has_any = {precision for _, precision in held}
    return [m for m in models if m in held or m[1] not in has_any]
