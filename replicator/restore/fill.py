"""The data directory filled with a snapshot: an empty one, or, with --delta, one that holds something already.

Owns the refusal of what may not be touched, and the room that it takes. Whatever ends it, the directory can not start.
"""

from __future__ import annotations

import os
from dataclasses import replace

from replicator.errors import AlreadyExists, UsageError
from replicator.repository.manifests import ManifestReader
from replicator.restore import host
from replicator.restore.blockreaders import BlockReaders
from replicator.restore.compare import Comparison
from replicator.restore.fetch import Fetch
from replicator.restore.job import RestoreJob
from replicator.restore.plan import RecoveryPlan
from replicator.restore.present import Names, Present, clear, examine, take_over
from replicator.restore.sources import Sources, entries
from replicator.restore.tree import Tree

#: A manifest of so few files, of so few bytes together, takes at most some 50 MB when it is kept.
_KEPT_FILES = 50_000
_KEPT_BYTES = 8 * 1024**3
#: From so many bytes on processes compare. They gain little below a gigabyte, but then all but the smallest restores go
#: the same way as the largest.
_READERS_BYTES = 16 * 1024**2


def prepared(job: RestoreJob) -> Present | None:
    """What --delta finds; None for an empty directory. Touches nothing. Raises AlreadyExists, Conflict, UsageError."""
    if job.delta:
        _check_stores(job)
        return examine(job.into, job.tablespaces)
    Tree(job.into, job.tablespaces).check_empty()
    return None


def _check_stores(job: RestoreJob) -> None:
    """Raise UsageError for a store within what --delta clears."""
    for name, access in job.access.items():
        for place in (job.into, *job.tablespaces.values()):
            if access.policy.scheme == "file" and access.policy.directory.resolve().is_relative_to(place.resolve()):
                raise UsageError(
                    f"store {name} lies within {place}, where --delta removes what the snapshot does not have",
                    hint="Restore into another directory, or copy the store elsewhere first.",
                )


def owned(job: RestoreJob, present: Present | None) -> RestoreJob:
    """The same job; run by root it gives what --delta found to the user who had it, where no other is named."""
    if present is None or job.owner is not None or os.geteuid() != 0:
        return job
    return replace(job, owner=present.owner)


def fill(
    job: RestoreJob, plan: RecoveryPlan, manifest: ManifestReader, sources: Sources, tree: Tree, present: Present | None
) -> list[str]:
    """Write the snapshot into the tree; what the operator should know. Everything is there then, but pg_control has no
    name. Raises what `Fetch.run` does, AlreadyExists, Conflict.
    """
    keyring = job.repository.keyring
    needed = plan.summary.bytes + min(plan.wal_bytes, job.window)
    held = present.bytes if present is not None else 0
    host.check_room(job.into, needed - held, job.tablespaces.values())
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
    read = list(entries(sources, manifest, keyring)) if _is_small(plan) else None
    notes = clear(tree, Names(entries(sources, manifest, keyring) if read is None else read))
    job.step("cleared")
    key = manifest.facts.comparison_key
    count = job.workers if plan.summary.bytes >= _READERS_BYTES else 0
    with BlockReaders(key, count, tree.handles.values()) as readers:
        comparison = Comparison(key, tree.ids, readers)
        totals = Fetch(sources, keyring, tree, job.workers, job.report, job.stop, comparison).run(manifest, read)
    return [*notes, f"{totals.fetched} of {totals.bytes} bytes differed and were fetched"]


def _is_small(plan: RecoveryPlan) -> bool:
    """Whether the manifest's entries may be kept in memory between their two readings."""
    return plan.summary.files <= _KEPT_FILES and plan.summary.bytes <= _KEPT_BYTES
