"""The tables of governance. What decides anything is in the signed envelopes; columns are for finding."""

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Integer, String, Table, Text

from serving.storage.schema import metadata

NAME: Final = String(63)
SUBJECT: Final = String(255)
ID: Final = String(32)

requests: Final = Table(
    "approval_requests",
    metadata,
    Column("id", ID, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("model", NAME, nullable=False, index=True),
    Column("version", NAME, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("author", SUBJECT, nullable=False),
    Column("requester", SUBJECT, nullable=False),
    Column("requester_owner", SUBJECT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("closed_ns", BigInteger, nullable=False),
)

decisions: Final = Table(
    "approval_decisions",
    metadata,
    Column("id", ID, primary_key=True),
    Column("request", ID, ForeignKey("approval_requests.id"), nullable=False, index=True),
    Column("model", NAME, nullable=False, index=True),
    Column("version", NAME, nullable=False),
    Column("approver", SUBJECT, nullable=False),
    Column("decision", String(16), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("envelope", Text, nullable=False),
)
"""envelope: the signed statement, DSSE."""

comments: Final = Table(
    "approval_comments",
    metadata,
    Column("id", ID, primary_key=True),
    Column("request", ID, ForeignKey("approval_requests.id"), nullable=False, index=True),
    Column("author", SUBJECT, nullable=False),
    Column("text", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)

evidence: Final = Table(
    "evidence",
    metadata,
    Column("id", ID, primary_key=True),
    Column("model", NAME, nullable=False, index=True),
    Column("version", NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("envelope", Text, nullable=False),
)

webhooks: Final = Table(
    "webhooks",
    metadata,
    Column("id", ID, primary_key=True),
    Column("url", String(2048), nullable=False),
    Column("events", JSON, nullable=False),
    Column("made_by", SUBJECT, nullable=False),
    Column("made_ns", BigInteger, nullable=False),
)

deliveries: Final = Table(
    "webhook_deliveries",
    metadata,
    Column("id", ID, primary_key=True),
    Column("webhook", ID, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("made_ns", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_ns", BigInteger, nullable=False, index=True),
    Column("outcome", String(255), nullable=False),
)
"""The outbox of notifications: written with the change that they tell of."""

rollouts: Final = Table(
    "rollouts",
    metadata,
    Column("id", ID, primary_key=True),
    Column("model", NAME, nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("warm_until_ns", BigInteger, nullable=False),
    Column("body", JSON, nullable=False),
)
"""body: the rollout as a whole; columns are for finding."""
