"""Audio time as people read it."""

import pytest

from ssast_edge.clock import clock


@pytest.mark.parametrize(
    ("time_s", "digits", "shown"),
    [
        (0.0, 2, "00:00.00"),
        (4.735, 0, "00:05"),
        (59.999, 2, "01:00.00"),
        (59.6, 0, "01:00"),
        (3723.456, 2, "1:02:03.46"),
        (3723.456, 0, "1:02:03"),
        (360_000.0, 2, "100:00:00.00"),
    ],
)
def test_time_has_hours_only_when_there_are_some(time_s: float, digits: int, shown: str) -> None:
    assert clock(time_s, digits=digits) == shown
