"""Restore: plan (pure), fetch, settings, prefetch, and a server recovered to a moment in time.

Owns the way back from a repository to a data directory. Reads stores only; it puts and deletes nothing there.
"""

from replicator.restore.job import RestoreJob, RestoreResult
from replicator.restore.plan import PlanRequest, RecoveryPlan, plan
from replicator.restore.run import make_plan, restore

__all__ = ["PlanRequest", "RecoveryPlan", "RestoreJob", "RestoreResult", "make_plan", "plan", "restore"]
