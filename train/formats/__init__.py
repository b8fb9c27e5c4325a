"""Foreign checkpoints, and the project's own file of an encoder."""

from __future__ import annotations

from pathlib import Path

from train.checkpoint import CheckpointError
from train.formats.encoder_file import is_encoder_file, load_encoder, save_encoder
from train.formats.huggingface import is_huggingface, read_huggingface
from train.formats.imported import Imported
from train.formats.ssast import read_ssast, write_ssast

__all__ = ["Imported", "import_checkpoint", "load_encoder", "save_encoder", "write_ssast"]


def import_checkpoint(path: Path, *, stride: tuple[int, int] | None = None) -> Imported:
    """Read any format: an encoder file of this project, the authors' .pth, Hugging Face's folders.

    stride: (bins, frames) of a fine-tuned .pth, which does not tell it.
    Raises CheckpointError, one line, for anything else.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.is_dir():
        if is_encoder_file(path):
            return load_encoder(path)
        if is_huggingface(path):
            return read_huggingface(path)
        if (path / "last").is_dir():
            raise CheckpointError(f"{path} is a run: its checkpoint is {path / 'last'}")
        raise CheckpointError(
            f"{path} holds neither encoder.json (this project's) nor config.json with "
            "model.safetensors (Hugging Face's)"
        )
    return read_ssast(path, stride=stride)
