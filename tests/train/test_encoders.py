"""The encoders that ship: small, whole, free to use, and a start for any window."""

from pathlib import Path

import pytest

for _module in ("torch", "safetensors"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.formats import load_encoder  # noqa: E402
from train.initial import start_from  # noqa: E402
from train.packs import DATA_LICENCES  # noqa: E402

ENCODERS = sorted(path.parent for path in Path(__file__).parents[2].glob("encoders/*/encoder.json"))


def test_these_are_there() -> None:
    assert [p.name for p in ENCODERS] == ["edge-frame", "edge-phones", "tiny-frame", "tiny-patch"]


@pytest.mark.parametrize("folder", ENCODERS, ids=lambda path: path.name)
def test_it_is_small_and_says_what_it_learnt_from(folder: Path) -> None:
    weights = folder / "encoder.safetensors"
    assert weights.stat().st_size <= 12_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    found = load_encoder(folder)
    card = "-".join((folder / "MODEL_CARD.md").read_text().split())
    assert found.sources
    for source in found.sources:
        assert "NC" not in DATA_LICENCES[source]["licence"]
        assert "-".join(DATA_LICENCES[source]["licence"].split()) in card


@pytest.mark.parametrize("folder", ENCODERS, ids=lambda path: path.name)
def test_it_starts_windows_of_any_length_and_tells_patches_apart(folder: Path) -> None:
    found = load_encoder(folder)
    for num_frames in (64, 98, 256):
        config = EncoderConfig(**{**vars(found.config), "num_frames": num_frames})
        encoder = Encoder(config)
        start_from(folder, encoder)
        with torch.no_grad():
            tokens = encoder(torch.randn(1, num_frames, 128))
        assert torch.isfinite(tokens).all()
        assert tokens.std() > 0.1
