"""Snapshots: a base backup into the repository, and the list of those that are there.

Owns the way from BASE_BACKUP to the manifest. It never restores, never deletes, and knows no daemon. It imports none of
its modules: a list of snapshots must not pay for what a take needs.
"""
