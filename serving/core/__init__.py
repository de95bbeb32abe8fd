"""The nouns everyone shares: tensors, models, principals, traffic, predictions, the clock.

Standard library and numpy only; no behaviour that needs a process, a file or a socket.
"""
