"""What makes evidence and secrecy: canonical bytes, Merkle trees, signatures, sealed files, key stores.

The lowest layer that does cryptography. Nothing here reads a clock, opens a connection by itself, or
knows what a model is: times, keys and addresses are arguments. Every check returns a value object
or raises; none returns a truth value that a caller could forget to look at.
"""
