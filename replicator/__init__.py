"""replicator: streams, snapshots, proves and restores PostgreSQL clusters."""

import os

#: numpy's linear algebra is never used: its threads would spin at every start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
#: pydantic would look through every installed package for plugins, which nobody wrote for ours.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = "0.1.0"
