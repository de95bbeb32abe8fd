"""Run by Alembic: migrates the connection, and within the transaction, that `storage.migration` gives."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
