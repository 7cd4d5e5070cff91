"""The data directory filled with a snapshot: an empty one, or, with --delta, one that holds something already.

Owns the refusal of what may not be touched, and the room that it takes. Whatever ends it, the directory can not start.
"""

from __future__ import annotations

from replicator.errors import AlreadyExists
from replicator.repository.manifests import ManifestReader
from replicator.restore import host
from replicator.restore.compare import Comparison
from replicator.restore.fetch import Fetch
from replicator.restore.job import RestoreJob
from replicator.restore.plan import RecoveryPlan
from replicator.restore.present import Names, Present, clear, examine, take_over
from replicator.restore.sources import Sources, entries
from replicator.restore.tree import Tree


def prepared(job: RestoreJob) -> Present | None:
    """What --delta finds; None for an empty directory. Touches nothing. Raises AlreadyExists, Conflict, UsageError."""
    if job.delta:
        return examine(job.into, job.tablespaces)
    Tree(job.into, job.tablespaces).check_empty()
    return None


def fill(
    job: RestoreJob, plan: RecoveryPlan, manifest: ManifestReader, sources: Sources, tree: Tree, present: Present | None
) -> list[str]:
    """Write the snapshot into the tree; what the operator should know. Everything is there then, but pg_control has no
    name. Raises what `Fetch.run` does, AlreadyExists, Conflict.
    """
    keyring = job.repository.keyring
    needed = plan.summary.bytes + min(plan.wal_bytes, job.window)
    host.check_room(job.into, needed - (present.bytes if present is not None else 0))
    if present is None:
        tree.check_empty()
        tree.create(plan.snapshot.system_id)
        job.step("created")
        Fetch(sources, keyring, tree, job.workers, job.report, job.stop).run(manifest)
        return []
    if present.system_id != plan.snapshot.system_id:
        raise AlreadyExists(
            f"{job.into} is the data directory of system {present.system_id}, the snapshot is of "
            f"{plan.snapshot.system_id}",
            hint="Restore into an empty directory.",
        )
    take_over(tree, present)
    job.step("created")
    notes = clear(tree, Names(entries(sources, manifest, keyring)))
    job.step("cleared")
    comparison = Comparison(manifest.facts.comparison_key, tree.ids)
    totals = Fetch(sources, keyring, tree, job.workers, job.report, job.stop, comparison).run(manifest)
    return [*notes, f"{totals.fetched} of {totals.bytes} bytes differed and were fetched"]
