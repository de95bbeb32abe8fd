"""The registry: models, versions, aliases, traffic; idempotency keys; whose database it is."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

NAME: Final = sa.String(63)
SUBJECT: Final = sa.String(255)


def upgrade() -> None:
    _make_storage()
    _make_models()
    _make_versions()
    op.create_table(
        "aliases",
        sa.Column("model", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("version", NAME, nullable=False),
        sa.Column("updated_ns", sa.BigInteger, nullable=False),
        sa.Column("updated_by", SUBJECT, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("model", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
            name="fk_aliases_model_version",
        ),
    )
    op.create_table(
        "traffic",
        sa.Column("model", NAME, nullable=False),
        sa.Column("stable", NAME, nullable=False),
        sa.Column("shadows", sa.JSON, nullable=False),
        sa.Column("scale", sa.JSON, nullable=False),
        sa.Column("updated_ns", sa.BigInteger, nullable=False),
        sa.Column("updated_by", SUBJECT, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_traffic"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_traffic_model"),
    )


def _make_storage() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.create_table(
        "operations",
        sa.Column("scope", sa.String(512), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name="pk_operations"),
    )
    op.create_index("ix_operations_at_ns", "operations", ["at_ns"])


def _make_models() -> None:
    op.create_table(
        "models",
        sa.Column("name", NAME, nullable=False),
        sa.Column("tenant", SUBJECT, nullable=False),
        sa.Column("owner", SUBJECT, nullable=False),
        sa.Column("team", SUBJECT, nullable=False),
        sa.Column("risk_tier", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("created_by", SUBJECT, nullable=False),
        sa.Column("updated_ns", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    for column in ("tenant", "owner", "risk_tier"):
        op.create_index(f"ix_models_{column}", "models", [column])
    op.create_table(
        "model_tags",
        sa.Column("model", NAME, nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.Column("value", sa.String(1024), nullable=False),
        sa.PrimaryKeyConstraint("model", "tag", name="pk_model_tags"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_model_tags_model"),
    )


def _make_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", NAME, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("author", SUBJECT, nullable=False),
        sa.Column("author_owner", SUBJECT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("lineage", sa.JSON, nullable=False),
        sa.Column("runtime", sa.JSON, nullable=False),
        sa.Column("inspection", sa.JSON, nullable=True),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("changed_ns", sa.BigInteger, nullable=False),
        sa.Column("deprecated_ns", sa.BigInteger, nullable=False),
        sa.Column("sunset_ns", sa.BigInteger, nullable=False),
        sa.Column("retired_ns", sa.BigInteger, nullable=False),
        sa.Column("successor", sa.String(127), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_versions_model"),
    )
    for column in ("digest", "state"):
        op.create_index(f"ix_versions_{column}", "versions", [column])
