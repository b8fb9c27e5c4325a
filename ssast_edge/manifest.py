"""Strict JSON: text to dataclasses, with one clear line for whatever does not fit.

Knows nothing of bundles: `read_json` refuses what the JSON standard leaves open (duplicate
keys, NaN), `from_json` checks every key and type against the annotations of a dataclass.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_JSON_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


class ManifestError(ValueError):
    """JSON that is broken or does not have the wanted keys and types."""


def read_json(path: Path) -> Any:
    """The value in a JSON file (UTF-8).

    Raises ManifestError for broken JSON, duplicate keys and numbers that are not finite, and
    OSError when the file cannot be read.
    """
    raw = path.read_bytes()
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except ManifestError:
        raise
    except UnicodeDecodeError as error:
        raise ManifestError(f"broken JSON: not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"broken JSON: {error}") from error


def from_json(value: Any, kind: type[T], where: str = "") -> T:
    """`value` as an object of `kind`: a dataclass, a plain type, tuple[X, ...] or dict[str, X].

    where: dotted place of `value` for messages, empty for the whole file. An int is taken
    where a float is wanted; a bool is never taken for a number.
    """
    return cast(T, _convert(value, kind, where))


def check_keys(
    table: dict[str, Any], known: Sequence[str], where: str, *, optional: Sequence[str] = ()
) -> None:
    """Refuse a key that is not known and a known key that is absent (unless optional)."""
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ManifestError(f"unknown key {_join(where, unknown[0])!r}, known: {', '.join(known)}")
    missing = [key for key in known if key not in table and key not in optional]
    if missing:
        raise ManifestError(f"key {_join(where, missing[0])!r} is missing")


def _convert(value: Any, kind: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float:
        if type(value) not in (int, float):
            raise _wrong_type(value, "a number", where)
        return _float(value, where)
    if kind is int:
        if type(value) is not int:
            raise _wrong_type(value, "a whole number", where)
        return value
    if is_dataclass(kind):
        return _dataclass(value, kind, where)
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    json_type: Any = list if origin is tuple else origin
    if type(value) is not json_type:
        raise _wrong_type(value, _JSON_NAMES[json_type], where)
    if origin is tuple:
        return tuple(
            _convert(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value)
        )
    if origin is dict:
        return {key: _convert(item, arguments[1], _join(where, key)) for key, item in value.items()}
    return value


def _dataclass(value: Any, kind: Any, where: str) -> Any:
    if type(value) is not dict:
        raise _wrong_type(value, "an object", where)
    hints = get_type_hints(kind)
    with_default = [
        field.name
        for field in fields(kind)
        if field.default is not MISSING or field.default_factory is not MISSING
    ]
    check_keys(value, [field.name for field in fields(kind)], where, optional=with_default)
    values = {key: _convert(item, hints[key], _join(where, key)) for key, item in value.items()}
    try:
        return kind(**values)
    except ManifestError:
        raise
    except ValueError as error:
        raise ManifestError(f"{where}: {error}" if where else str(error)) from error


def _wrong_type(value: Any, wanted: str, where: str) -> ManifestError:
    shown = _JSON_NAMES[type(value)] if isinstance(value, (list, dict)) else json.dumps(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return ManifestError(f"{where or 'the file'} must be {wanted}, got {shown}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _float(value: int | float, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ManifestError(f"{where} must be a number that fits, got a huge one") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ManifestError(f"numbers must be finite, got {text}")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(f"key {twice!r} is given twice")
    return table
