"""Preconditions of every command: each failure is one sentence that says what to do."""

import os
import platform
import re
import shutil
import socket
import sys
from pathlib import Path


class UserError(Exception):
    """Something that the user has to change; the message says what."""


def dagster_home() -> Path:
    """The instance's folder.

    Raises:
        UserError: if DAGSTER_HOME is missing, relative, or no folder with a dagster.yaml.
    """
    value = os.environ.get("DAGSTER_HOME", "")
    if not value:
        raise UserError('DAGSTER_HOME is not set; run: export DAGSTER_HOME="$PWD/dagster_home"')
    path = Path(value)
    if not path.is_absolute():
        raise UserError(
            f"DAGSTER_HOME is the relative path {value!r}; make it absolute: "
            f'export DAGSTER_HOME="{path.resolve()}"'
        )
    if not (path / "dagster.yaml").is_file():
        raise UserError(
            f"DAGSTER_HOME={value} holds no dagster.yaml; point it at the folder dagster_home "
            "of the repository, or copy that file there"
        )
    return path


def is_url(location: str) -> bool:
    """Whether this is an fsspec URL, also a chained one, rather than a local path."""
    return "://" in location or "::" in location


def location(variable: str, default: str = "") -> str:
    """An environment variable's path or URL; `default` where it is unset or empty.

    Raises:
        UserError: if it is a relative path: programs of several working directories read it.
    """
    value = os.environ.get(variable, "")
    if value and not is_url(value) and not Path(value).is_absolute():
        raise UserError(
            f"{variable} is the relative path {value!r}; give an absolute path or a URL, for "
            f"example {Path(value).absolute()}"
        )
    return value or default


def whole_number(variable: str, default: int, least: int = 0) -> int:
    """An environment variable's value; `default` where it is unset or empty.

    Raises:
        UserError: if it is no whole number, or less than `least`.
    """
    value = os.environ.get(variable, "")
    if not value:
        return default
    if not value.isdecimal() or int(value) < least:
        raise UserError(f"{variable} is {value!r}; set it to a whole number, at least {least}")
    return int(value)


def decimal(variable: str, default: float, what: str) -> float:
    """As `whole_number`, for a `what` ("number of seconds") that may have decimals.

    Raises:
        UserError: if it is no number, or negative.
    """
    value = os.environ.get(variable, "")
    if not value:
        return default
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        raise UserError(f"{variable} is {value!r}; set it to a {what}, at least 0")
    return float(value)


def require_python() -> None:
    """Raise `UserError` unless this is Python 3.11."""
    if sys.version_info[:2] != (3, 11):
        raise UserError(
            f"this is Python {platform.python_version()}, and the locked dependencies are for "
            "3.11; install Python 3.11 and run make setup"
        )


def require_space(directory: Path, gigabytes: float) -> None:
    """Raise `UserError` unless so many GB (1e9 bytes) are free where `directory` lies."""
    existing = directory
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    if free < gigabytes:
        raise UserError(
            f"{free:.1f} GB are free on the disk of {directory}, {gigabytes:g} GB are needed; "
            "free some, or set DALLE_DATA_ROOT to another disk"
        )


def require_port(port: int, variable: str) -> None:
    """Raise `UserError` unless nothing listens on the loopback port."""
    with socket.socket() as probe:
        # Without it, a connection of an earlier run that lingers in TIME_WAIT counts as busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} is busy; stop what listens there, or set {variable} to another port"
            ) from error
