"""Rows of governance as values and back. No rule is here."""

import msgspec
from sqlalchemy import Connection, RowMapping, func, insert, select, update

from serving.artifacts.statements import Approval
from serving.audit.events import EventName
from serving.audit.tables import events
from serving.governance.entities import ApprovalRequest, Comment, RequestFilter, RequestState
from serving.governance.tables import comments, decisions, evidence, requests
from serving.trust.signatures import Envelope


def add_request(connection: Connection, request: ApprovalRequest) -> None:
    connection.execute(insert(requests).values(msgspec.to_builtins(request)))


def find_request(connection: Connection, request: str) -> ApprovalRequest | None:
    query = select(requests).where(requests.c.id == request)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _request(row)


def find_requests(connection: Connection, wanted: RequestFilter) -> list[ApprovalRequest]:
    query = select(requests).order_by(requests.c.created_ns.desc(), requests.c.id)
    if wanted.model:
        query = query.where(requests.c.model == wanted.model)
    if wanted.version:
        query = query.where(requests.c.version == wanted.version)
    if wanted.state is not None:
        query = query.where(requests.c.state == wanted.state.value)
    return [_request(row) for row in connection.execute(query.limit(wanted.limit)).mappings()]


def overdue_requests(connection: Connection, now_ns: int) -> list[ApprovalRequest]:
    """Open ones whose time is over."""
    query = select(requests).where(
        requests.c.state == RequestState.OPEN.value, requests.c.expires_ns <= now_ns
    )
    return [_request(row) for row in connection.execute(query).mappings()]


def count_open(connection: Connection) -> int:
    query = select(func.count()).where(requests.c.state == RequestState.OPEN.value)
    return connection.scalar(query) or 0


def close_request(
    connection: Connection, request: ApprovalRequest, state: RequestState, *, now_ns: int
) -> ApprovalRequest:
    change = update(requests).where(requests.c.id == request.id)
    connection.execute(change.values(state=state.value, closed_ns=now_ns))
    return msgspec.structs.replace(request, state=state, closed_ns=now_ns)


def add_decision(
    connection: Connection, identifier: str, approval: Approval, envelope: Envelope
) -> None:
    connection.execute(
        insert(decisions).values(
            id=identifier,
            request=approval.request,
            model=approval.model,
            version=approval.version,
            approver=approval.approver,
            decision=approval.decision,
            at_ns=approval.issued_ns,
            envelope=envelope.encode().decode(),
        )
    )


def envelopes_of_request(connection: Connection, request: str) -> list[str]:
    query = select(decisions.c.envelope).where(decisions.c.request == request)
    return list(connection.scalars(query.order_by(decisions.c.at_ns, decisions.c.id)))


def envelopes_of_version(connection: Connection, model: str, version: str) -> list[str]:
    query = select(decisions.c.envelope).where(
        decisions.c.model == model, decisions.c.version == version
    )
    return list(connection.scalars(query.order_by(decisions.c.at_ns, decisions.c.id)))


def add_comment(connection: Connection, identifier: str, request: str, comment: Comment) -> None:
    connection.execute(
        insert(comments).values(
            id=identifier,
            request=request,
            author=comment.author,
            text=comment.text,
            at_ns=comment.at_ns,
        )
    )


def comments_of(connection: Connection, request: str) -> tuple[Comment, ...]:
    query = select(comments).where(comments.c.request == request)
    rows = connection.execute(query.order_by(comments.c.at_ns, comments.c.id))
    return tuple(Comment(author=row.author, text=row.text, at_ns=row.at_ns) for row in rows)


def add_evidence(
    connection: Connection,
    identifier: str,
    *,
    model: str,
    version: str,
    kind: str,
    at_ns: int,
    envelope: Envelope,
) -> None:
    connection.execute(
        insert(evidence).values(
            id=identifier,
            model=model,
            version=version,
            kind=kind,
            at_ns=at_ns,
            envelope=envelope.encode().decode(),
        )
    )


def evidence_of(connection: Connection, model: str, version: str) -> list[str]:
    query = select(evidence.c.envelope).where(
        evidence.c.model == model, evidence.c.version == version
    )
    return list(connection.scalars(query.order_by(evidence.c.at_ns, evidence.c.id)))


def promoted_versions(connection: Connection, model: str) -> list[str]:
    """Every version that ever became the stable one, the last one first."""
    prefix = f"version:{model}@"
    query = (
        select(events.c.object)
        .where(
            events.c.name == EventName.VERSION_PROMOTED.value,
            events.c.object.startswith(prefix, autoescape=True),
        )
        .order_by(events.c.position.desc())
    )
    found = (each.removeprefix(prefix) for each in connection.scalars(query))
    return list(dict.fromkeys(found))


def _request(row: RowMapping) -> ApprovalRequest:
    return msgspec.convert({str(name): row[name] for name in row}, ApprovalRequest)
