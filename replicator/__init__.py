"""replicator: streams, snapshots, proves and restores PostgreSQL clusters."""

__version__ = "0.1.0"
