"""A label may be spelled freely; one that is not there is refused with those that are."""

import pytest

from ssast_edge.bundle import resolve_label
from ssast_edge.errors import SsastEdgeError


@pytest.mark.parametrize(
    "name", ["smart_mirror", "smart mirror", "smart-mirror", "Smart  Mirror", " smart_mirror "]
)
def test_spelling_of_a_label_is_free(name: str) -> None:
    assert resolve_label(name, ["alexa", "smart_mirror"]) == "smart_mirror"


def test_exact_label_wins_over_a_like_one() -> None:
    assert resolve_label("Dog bark", ["dog_bark", "Dog bark"]) == "Dog bark"


@pytest.mark.parametrize("name", ["smartmirror", "smart", "", "alexa2"])
def test_unknown_label_lists_the_known_ones(name: str) -> None:
    with pytest.raises(SsastEdgeError, match="known: alexa, smart_mirror"):
        resolve_label(name, ["alexa", "smart_mirror"])
