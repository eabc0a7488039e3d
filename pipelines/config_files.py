"""Configurations of the stages from JSON files: fields of a dataclass by their names.

A wrong name, a value of another kind or one that the dataclass refuses is one sentence.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipelines import storage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def read_config(path: str, kind: type) -> dict[str, Any]:
    """Fields of the dataclass `kind` from a JSON object, at a path or fsspec URL.

    Raises:
        FileNotFoundError: if there is no such file, naming it.
        ValueError: if it holds anything else, naming it.
    """
    try:
        found = storage.read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no {path}; write {kind.__name__}'s fields into it as a JSON object"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object of {kind.__name__}'s fields")
    kinds = typing.get_type_hints(kind)
    unknown = sorted(set(found) - set(kinds))
    if unknown:
        known = ", ".join(kinds)
        raise ValueError(f"{path} names {', '.join(unknown)}, which is not one of {known}")
    for name, value in found.items():
        if not _fits(value, kinds[name]):
            raise ValueError(f"{path}: {name} is {value!r}, which is not {_words(kinds[name])}")
    return {name: _typed(value, kinds[name]) for name, value in found.items()}


def configured(default: Config, path: str, options: Mapping[str, Any]) -> Config:
    """A configuration with what a file says over it, and over that the options of a command.

    Args:
        default: a dataclass.
        path: of the file; empty for none.
        options: by the name of the field; None where the command was not given it.

    Raises:
        FileNotFoundError: if there is no such file, naming it.
        ValueError: if a value makes no sense; an option is named as it is written.
    """
    given = {name: value for name, value in options.items() if value is not None}
    read = read_config(path, type(default)) if path else {}
    try:
        return dataclasses.replace(default, **read | given)
    except ValueError as error:
        text = str(error)
        for name in given:
            text = re.sub(rf"\b{name}\b", "--" + name.replace("_", "-"), text)
        where = f"{path} and the options: " if given else f"{path}: "
        raise ValueError(where + text if path else text) from error


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, list) and all(_fits(each, item) for each in value)
    if issubclass(kind, StrEnum):
        return value in list(kind)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole if kind is int else isinstance(value, kind) or (kind is float and whole)


def _typed(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    typed = kind is float or (isinstance(kind, type) and issubclass(kind, StrEnum))
    return kind(value) if typed else value


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is tuple:
        whole = typing.get_args(kind)[0] is int
        return "a list of whole numbers" if whole else "a list of texts"
    if issubclass(kind, StrEnum):
        return f"one of {', '.join(kind)}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words[kind]
