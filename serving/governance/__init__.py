"""Governance: who has to agree before a model serves, what they must have seen, and that they did.

Policies say what each tier of risk demands (`policies`), requests collect the word of people as signed
statements (`requests`), evidence is recorded and signed (`evidence`), and `guard` answers the registry
whether a version may take a step. Whoever edits a row gains nothing: what counts is signed and bound
to the digest. Webhooks tell people that something waits for them.
"""
