"""A backend that keeps the window and is given only its new frames has the whole window anyway."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.spotter import Spotter

FloatArray = NDArray[np.float32]


class Keeper:
    """Keeps a window of its own, puts new frames behind it, and compares with the real one."""

    name = "keeper"
    hop_frames = 1

    def __init__(self) -> None:
        self._window: FloatArray = np.full((20, 128), np.nan, np.float32)
        self.told: list[int | None] = []

    def infer(self, fbank: FloatArray, *, new_frames: int | None = None) -> FloatArray:
        """Logits that never fire."""
        self.told.append(new_frames)
        fresh = len(fbank) if new_frames is None else new_frames
        assert 0 < fresh <= len(fbank)
        self._window = np.concatenate([self._window, fbank[-fresh:]])[-len(fbank) :]
        np.testing.assert_array_equal(self._window, fbank)
        return np.full(3, -9, np.float32)

    def infer_both(
        self, fbank: FloatArray, *, new_frames: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """The bundle has no enrolled words: nobody asks."""
        raise AssertionError("asked for an embedding")

    def close(self) -> None:
        """Nothing to free."""


actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 4000)),
        st.tuples(st.just("late"), st.integers(0, 8000)),  # only the newest hop is inferred
        st.tuples(st.just("gap"), st.integers(1, 500)),
        st.tuples(st.just("reset"), st.just(0)),
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def noise(tone_audio: Callable[..., FloatArray]) -> FloatArray:
    """Audio whose frames all differ."""
    return tone_audio(11.0)


@settings(max_examples=30, deadline=None)
@given(actions=actions, hop_ms=st.sampled_from([10, 40, 70, 200]))
def test_new_frames_make_up_the_window(
    tone_bundle: Bundle, noise: FloatArray, actions: list[tuple[str, int]], hop_ms: int
) -> None:
    spotter = Spotter(tone_bundle, backend=Keeper(), hop_ms=hop_ms)
    start = 0
    for action, number in actions:
        if action == "gap":
            spotter.skip(number / 1000)
        elif action == "reset":
            spotter.reset()
        else:
            samples = noise[start : start + number]
            spotter.push(samples, latest_only=action == "late")
            start = (start + number) % 160_000


def test_only_the_first_hop_of_a_stretch_is_whole(tone_bundle: Bundle, noise: FloatArray) -> None:
    keeper = Keeper()
    spotter = Spotter(tone_bundle, backend=keeper)
    spotter.push(noise[:8000])
    assert keeper.told == [None, *11 * [4]]
    spotter.skip(1.0)
    spotter.push(noise[8000:12_000])
    assert keeper.told[12:] == [None, *4 * [4]]
    spotter.push(noise[12_000:20_000], latest_only=True)  # passes over hops
    spotter.push(noise[20_000:21_000])
    assert keeper.told[17:] == [None, 4]
