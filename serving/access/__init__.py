"""Who is calling, and may they: the local issuer, token verification, authorization.

`keys` keeps secrets on disk, `issuer` signs tokens, `claims` judges what a signed token says,
`tokens` verifies and remembers, `authorization` decides. Nothing here knows HTTP, and nothing here
opens a connection: the request path never waits for another machine to learn who is calling.
"""
