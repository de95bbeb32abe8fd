"""The tables of the audit trail. The columns beside `body` are for searching; verification compares
them with the body, so that an event cannot be hidden by changing them."""

from typing import Final

from sqlalchemy import BigInteger, Column, LargeBinary, String, Table, Text

from serving.storage.schema import metadata

log_head: Final = Table(
    "audit_head",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("log_id", String(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("last", String(64), nullable=False),
)
"""One row, `log`: where the next event goes. It is locked by whoever appends."""

events: Final = Table(
    "audit_events",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False, unique=True),
    Column("at_ns", BigInteger, nullable=False, index=True),
    Column("name", String(64), nullable=False, index=True),
    Column("actor", String(255), nullable=False, index=True),
    Column("object", String(600), nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("hash", String(64), nullable=False),
)

checkpoints: Final = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    Column("nodes", LargeBinary, nullable=False),
)
"""Signed statements of what the trail was. nodes: the tree's frontier at that size, 32 bytes each;
it is worth what the signed root says of it."""
