"""The one description of all tables; each package that owns some defines them on `metadata`.

Times are wall nanoseconds since the epoch (`_ns`). What has parts of its own and is never searched
is JSON. Migrations in `storage.migrations` make the same tables; a test compares the two on every
database.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

NAMES: Final = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints have the same names everywhere, so that a migration can name them."""

metadata: Final = MetaData(naming_convention=NAMES)

installation: Final = Table(
    "installation",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("created_ns", BigInteger, nullable=False),
)
"""One row: which installation this database belongs to."""

operations: Final = Table(
    "operations",
    metadata,
    Column("scope", String(512), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("at_ns", BigInteger, nullable=False, index=True),
)
"""Changes that were made under an idempotency key, and what was answered."""
