"""The audit trail: who changed or read what, when, from where and why, so that tampering shows.

Every change of state writes its event in the same transaction (`log.AuditLog.append`), or through an
outbox that is absorbed exactly once. Events are chained by hash and are the leaves of an RFC 9162
tree whose signed checkpoints leave this machine by an append-only anchor file; `verification` finds
edit, deletion, insertion, reorder, duplication, truncation, fork and rollback without asking anybody.
"""
