"""Restore: plan (pure), fetch, settings, prefetch, and a server recovered to a moment in time.

Owns the way back from a repository to a data directory. Reads stores only; it puts and deletes nothing there. It
imports none of its modules: the server's `wal get` during recovery must not pay for what a restore needs.
"""
