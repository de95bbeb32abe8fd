"""The tables of the registry. What is searched has a column; the rest of a row is JSON."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Table,
    Text,
)

from serving.storage.schema import metadata

NAME: Final = String(63)
SUBJECT: Final = String(255)

models: Final = Table(
    "models",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("tenant", SUBJECT, nullable=False, index=True),
    Column("owner", SUBJECT, nullable=False, index=True),
    Column("team", SUBJECT, nullable=False),
    Column("risk_tier", String(16), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("created_by", SUBJECT, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
)
"""text: everything that a search for words looks at, in lower case."""

model_tags: Final = Table(
    "model_tags",
    metadata,
    Column("model", NAME, ForeignKey("models.name"), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Column("value", String(1024), nullable=False),
)

versions: Final = Table(
    "versions",
    metadata,
    Column("model", NAME, ForeignKey("models.name"), primary_key=True),
    Column("version", NAME, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("digest", String(64), nullable=False, index=True),
    Column("author", SUBJECT, nullable=False),
    Column("author_owner", SUBJECT, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("description", Text, nullable=False),
    Column("definition", JSON, nullable=False),
    Column("lineage", JSON, nullable=False),
    Column("runtime", JSON, nullable=False),
    Column("inspection", JSON, nullable=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
    Column("deprecated_ns", BigInteger, nullable=False),
    Column("sunset_ns", BigInteger, nullable=False),
    Column("retired_ns", BigInteger, nullable=False),
    Column("successor", String(127), nullable=False),
    Column("reason", Text, nullable=False),
    Column("revision", Integer, nullable=False),
)
"""position: counts the versions of a model in the order of their registration."""

aliases: Final = Table(
    "aliases",
    metadata,
    Column("model", NAME, primary_key=True),
    Column("alias", NAME, primary_key=True),
    Column("version", NAME, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("updated_by", SUBJECT, nullable=False),
    Column("revision", Integer, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)

traffic: Final = Table(
    "traffic",
    metadata,
    Column("model", NAME, ForeignKey("models.name"), primary_key=True),
    Column("stable", NAME, nullable=False),
    Column("shadows", JSON, nullable=False),
    Column("arms", JSON, nullable=False),
    Column("sticky", String(16), nullable=False),
    Column("salt", SUBJECT, nullable=False),
    Column("testers", JSON, nullable=False),
    Column("experiment", SUBJECT, nullable=False),
    Column("warm", JSON, nullable=False),
    Column("scale", JSON, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("updated_by", SUBJECT, nullable=False),
    Column("revision", Integer, nullable=False),
)
