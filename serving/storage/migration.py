"""Brings a database's schema up to date, or refuses it.

All steps that are missing are made in one transaction, on both databases: whoever is killed in the
middle leaves the schema as it was, and the next start begins again. A schema with a revision that is
not known here was made by a newer version of the product and is left alone.
"""

import secrets
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, insert, select

from serving.errors import SchemaUnsupported
from serving.storage.schema import installation

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def upgrade(connection: Connection, *, now_ns: int, target: str = "head") -> str:
    """Within the caller's transaction. Returns the installation's identifier.

    Raises SchemaUnsupported.
    """
    config, scripts = _scripts()
    found = current(connection)
    if found is not None and not _is_known(scripts, found):
        raise SchemaUnsupported(
            f"the registry's database has schema {found}, which this version of serving does not "
            f"know (its newest is {scripts.get_current_head()}); upgrade serving, or restore the "
            "backup made before the upgrade"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, target)
    return _installation(connection, now_ns)


def current(connection: Connection) -> str | None:
    """The schema's revision; None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The revision that this version of the product needs."""
    return str(_scripts()[1].get_current_head())


def _scripts() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)


def _is_known(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        return scripts.get_revision(revision) is not None
    except CommandError:
        return False


def _installation(connection: Connection, now_ns: int) -> str:
    found = connection.execute(select(installation.c.id)).scalar_one_or_none()
    if found is not None:
        return str(found)
    made = secrets.token_hex(16)
    connection.execute(insert(installation).values(id=made, created_ns=now_ns))
    return made
