"""TOML tables to frozen dataclasses: an unknown key, or a value of another type, is one line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["RecipeError", "parse", "read_table"]

T = TypeVar("T")


class RecipeError(ValueError):
    """A recipe that cannot be used: one line with the file, the key and what was wanted."""


def read_table(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The table of a file; `overrides` are "optimizer.steps=100" strings, values in TOML syntax."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a readable TOML file: {error}") from error
    for text in overrides:
        _override(table, text)
    return table


def _override(table: dict[str, Any], text: str) -> None:
    """Set one dotted key of a TOML table in place."""
    key, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"--set wants KEY=VALUE, got {text!r}")
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {text}: {parent} is a value, not a table")
    try:
        table[last] = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"--set {text}: the value is not TOML (text needs quotes)") from error


def parse(table: dict[str, Any], kind: type[T], where: str) -> T:
    """Build dataclass `kind` from a TOML table, checking keys and types all the way down."""
    hints = {n: h for n, h in get_type_hints(kind).items() if get_origin(h) is not ClassVar}
    unknown = table.keys() - hints.keys()
    if unknown:
        raise RecipeError(
            f"{where}: unknown key {sorted(unknown)[0]!r}, known keys: {', '.join(hints)}"
        )
    values = {key: _value(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{where}: {str(error).replace(f'{kind.__name__}.__init__() ', '')}"
        ) from error


def _value(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is UnionType:  # "or None", which TOML cannot say: it is left out
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: wanted a table, got {value!r}")
        return parse(value, hint, where)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list):
            raise RecipeError(f"{where}: wanted a list, got {value!r}")
        if kinds[-1] is ...:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise RecipeError(f"{where}: wanted {len(kinds)} values, got {len(value)}")
        return tuple(_value(v, k, where) for v, k in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise RecipeError(f"{where}: wanted {hint.__name__}, got {value!r}")
    return value
