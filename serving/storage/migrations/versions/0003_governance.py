"""Governance: approval requests and the signed word of people, evidence, webhooks."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"

NAME: Final = sa.String(63)
SUBJECT: Final = sa.String(255)
ID: Final = sa.String(32)


def upgrade() -> None:
    _requests()
    _decisions()
    _comments()
    _evidence()
    _webhooks()


def _requests() -> None:
    op.create_table(
        "approval_requests",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", NAME, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("author", SUBJECT, nullable=False),
        sa.Column("requester", SUBJECT, nullable=False),
        sa.Column("requester_owner", SUBJECT, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("expires_ns", sa.BigInteger, nullable=False),
        sa.Column("closed_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_approval_requests"),
    )
    op.create_index("ix_approval_requests_model", "approval_requests", ["model"])
    op.create_index("ix_approval_requests_state", "approval_requests", ["state"])


def _decisions() -> None:
    op.create_table(
        "approval_decisions",
        sa.Column("id", ID, nullable=False),
        sa.Column("request", ID, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", NAME, nullable=False),
        sa.Column("approver", SUBJECT, nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_approval_decisions"),
        sa.ForeignKeyConstraint(
            ["request"], ["approval_requests.id"], name="fk_approval_decisions_request"
        ),
    )
    op.create_index("ix_approval_decisions_request", "approval_decisions", ["request"])
    op.create_index("ix_approval_decisions_model", "approval_decisions", ["model"])


def _comments() -> None:
    op.create_table(
        "approval_comments",
        sa.Column("id", ID, nullable=False),
        sa.Column("request", ID, nullable=False),
        sa.Column("author", SUBJECT, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_approval_comments"),
        sa.ForeignKeyConstraint(
            ["request"], ["approval_requests.id"], name="fk_approval_comments_request"
        ),
    )
    op.create_index("ix_approval_comments_request", "approval_comments", ["request"])


def _evidence() -> None:
    op.create_table(
        "evidence",
        sa.Column("id", ID, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", NAME, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evidence"),
    )
    op.create_index("ix_evidence_model", "evidence", ["model"])


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", ID, nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("made_by", SUBJECT, nullable=False),
        sa.Column("made_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", ID, nullable=False),
        sa.Column("webhook", ID, nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("made_ns", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_ns", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sa.ForeignKeyConstraint(
            ["webhook"], ["webhooks.id"], name="fk_webhook_deliveries_webhook", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_webhook_deliveries_next_ns", "webhook_deliveries", ["next_ns"])
