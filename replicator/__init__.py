"""replicator: streams, snapshots, proves and restores PostgreSQL clusters."""

import os

#: numpy's linear algebra is never used: its threads would spin at every start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
