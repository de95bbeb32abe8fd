"""Who is calling, and may they: issuers of tokens, verification, authorization.

`keys` keeps secrets on disk and `issuer` signs the local tokens. `issuers` are all that are believed:
`sources` and `jwks` read their keys, `refreshing` keeps them fresh in `keyrings`, `verification` is a
key pinned to its algorithm. `claims` judges what a token says, `tokens` verifies and remembers.
`policy` is who may do what, `permissions` what each door of the product needs, `authorization` the
questions the doors ask. `state` is what was decided about access (API keys, rules, revocations),
`store` keeps it, `live` puts it in force, `denials` counts and tells what was refused.

Nothing here knows how a credential is carried, and the request path never waits for another machine to
learn who is calling: keys are read in a task of their own.
"""
