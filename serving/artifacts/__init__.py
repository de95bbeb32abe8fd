"""What may run: artifacts sealed at rest, signed manifests, approvals, and releases that bind them.

A release is everything a replica needs to decide by itself, offline, whether a version may serve:
the signed manifest with every digest and the requirement of its risk tier, and the signed approvals.
"""
