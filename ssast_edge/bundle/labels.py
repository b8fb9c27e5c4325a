"""What a label may be called by people: "Smart mirror" is "smart_mirror"."""

import re
from collections.abc import Iterable

from ssast_edge.errors import SsastEdgeError


def resolve_label(name: str, labels: Iterable[str]) -> str:
    """The label meant by `name`: "Smart mirror" and "smart-mirror" mean "smart_mirror".

    Raises SsastEdgeError, listing the labels, when there is none.
    """
    known = list(labels)
    if name in known:
        return name
    for label in known:
        if _plain(label) == _plain(name):
            return label
    raise SsastEdgeError(f"unknown keyword {name!r}, known: {', '.join(known) or 'none'}")


def same_label(first: str, second: str) -> bool:
    """Whether two names mean the same: "Smart mirror" is "smart_mirror"."""
    return _plain(first) == _plain(second)


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", "_", label.strip().lower())
