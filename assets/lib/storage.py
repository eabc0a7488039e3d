"""Where Dagster keeps runs and events: SQLite files, or the PostgreSQL of DALLE_POSTGRES_URL.

`dagster.yaml` has no conditions, and every program of a deployment (the daemon, the web server,
`dagster job launch`, a run's process) has to choose alike, so the instance's configuration names
this class, which looks into the environment.
"""

import os
import time
from typing import Any

import click
import dagster as dg
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from assets.lib.home import UserError

VARIABLE = "DALLE_POSTGRES_URL"
# dagster-postgres closes a connection of psycopg 3, SQLAlchemy's own choice, when it sets the
# web server's time limit, and the UI shows nothing.
_DRIVER = "postgresql+psycopg2"
# A server that restarts is back within this time.
_PATIENCE_SECONDS = 8.0
_POLL_SECONDS = 0.5


class StorageError(UserError, click.ClickException):
    """PostgreSQL cannot be used; commands of Dagster print the message without a stack."""


class EnvironmentStorage(DagsterStorage, ConfigurableClass):
    """Makes one of Dagster's own storages; there is no instance of this class itself."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`home`: folder of the SQLite files."""
        return {"home": dg.StringSource}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> DagsterStorage:
        """The storage that the environment asks for.

        Raises:
            StorageError: if it asks for PostgreSQL, and the driver is missing, the URL is wrong or
                no server answers there.
        """
        url = postgres_url()
        if url is None:
            return DagsterSqliteStorage.from_local(config_value["home"], inst_data)
        try:
            from dagster_postgres import DagsterPostgresStorage
        except ModuleNotFoundError as error:
            raise StorageError(
                f"{VARIABLE} is set, but {error.name} is not installed; run: "
                "pip install -e '.[postgres]'"
            ) from error
        _wait_for_answer(url)
        return DagsterPostgresStorage(url.render_as_string(hide_password=False), True, inst_data)


def postgres_url() -> URL | None:
    """The database that DALLE_POSTGRES_URL names; None where it is unset or empty.

    Raises:
        StorageError: if it is no URL of PostgreSQL; the message shows no password.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername != "postgresql" or not url.database:
        raise StorageError(
            f"{VARIABLE} is no URL of a PostgreSQL database; write it as "
            "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        )
    return url.set(drivername=_DRIVER)


def _wait_for_answer(url: URL) -> None:
    engine = create_engine(url, connect_args={"connect_timeout": int(_PATIENCE_SECONDS)})
    end = time.monotonic() + _PATIENCE_SECONDS
    try:
        while True:
            try:
                return engine.connect().close()
            except OperationalError as error:
                if time.monotonic() >= end:
                    # A password can also stand in the query.
                    where = url.set(drivername="postgresql", query={}).render_as_string()
                    reason = " ".join(str(error.orig).split())
                    raise StorageError(
                        f"PostgreSQL at {where} cannot be used: {reason}; repair it or {VARIABLE}, "
                        "or unset the variable to use SQLite"
                    ) from error
                time.sleep(_POLL_SECONDS)
    finally:
        engine.dispose()
