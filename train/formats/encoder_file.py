"""An encoder to keep or to give away: encoder.safetensors and encoder.json in one folder.

Half precision halves it and changes scores by less than training's own noise; read back as
float32.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.checkpoint import CheckpointError, load_weights
from train.encoder import Encoder
from train.formats.imported import Imported
from train.tables import RecipeError, parse

__all__ = ["is_encoder_file", "load_encoder", "save_encoder"]

FORMAT = 1
_FIELDS = ("mean", "std", "sources", "labels", "pooling", "provenance")


def is_encoder_file(folder: Path) -> bool:
    """Whether the folder looks like one of these."""
    return (folder / "encoder.json").is_file()


def save_encoder(folder: Path, imported: Imported, *, half: bool = False) -> None:
    """Write all of `imported`; a folder that is there is replaced whole or not at all.

    Beside the two files, others in the folder (a model card) are kept.
    """
    tensors = {f"encoder.{key}": value for key, value in imported.encoder.items()}
    for name in ("pretext", "head"):
        tensors |= {f"{name}.{key}": v for key, v in (getattr(imported, name) or {}).items()}
    kind = torch.float16 if half else torch.float32
    tensors = {key: value.detach().to(kind).contiguous() for key, value in tensors.items()}
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file(tensors, partial / "encoder.safetensors")
        (partial / "encoder.safetensors").chmod(0o644)  # it is made for its writer alone
        description: dict[str, Any] = {
            "format": FORMAT,
            "config": dataclasses.asdict(imported.config),
            "sha256": _digest(partial / "encoder.safetensors"),
            "parameters": imported.parameters(),
            **{name: getattr(imported, name) for name in _FIELDS},
        }
        (partial / "encoder.json").write_text(json.dumps(description, indent=2) + "\n")
        folder.mkdir(exist_ok=True)
        for name in ("encoder.safetensors", "encoder.json"):
            (partial / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} not written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_encoder(folder: Path) -> Imported:
    """Read it back, as float32; CheckpointError names what is damaged or does not fit."""
    try:
        description = json.loads((folder / "encoder.json").read_text())
        if description.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder}: encoder format {description.get('format')}, this version reads {FORMAT}"
            )
        weights = folder / "encoder.safetensors"
        if _digest(weights) != description["sha256"]:
            raise CheckpointError(f"{weights} is not the file that encoder.json describes")
        tensors = {key: value.float() for key, value in load_file(weights).items()}
        from train.encoder import EncoderConfig

        config = parse(description["config"], EncoderConfig, f"{folder}/encoder.json")
        fields = {name: description[name] for name in _FIELDS}
    except (FileNotFoundError, KeyError) as error:
        raise CheckpointError(f"{folder}: damaged encoder: {error} is missing") from error
    except (OSError, SafetensorError, json.JSONDecodeError, RecipeError) as error:
        raise CheckpointError(f"{folder}: damaged encoder: {error}") from error
    groups: dict[str, dict[str, Tensor]] = {"encoder": {}, "pretext": {}, "head": {}}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    fields |= {"sources": tuple(fields["sources"]), "labels": tuple(fields["labels"])}
    load_weights(Encoder(config), groups["encoder"], folder)  # names what does not fit
    return Imported(
        config=config,
        encoder=groups["encoder"],
        pretext=groups["pretext"] or None,
        head=groups["head"] or None,
        **fields,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
