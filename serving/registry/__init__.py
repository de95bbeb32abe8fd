"""Which models and versions exist, who owns them, and where their verified artifacts lie.

For now a folder of model folders; control reads it, the data plane never does.
"""
