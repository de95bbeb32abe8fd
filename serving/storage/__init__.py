"""The database of the control plane, its schema and migrations, and the store of large objects."""
