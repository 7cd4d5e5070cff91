"""Verification: can the repository be restored? Levels that each answer a part of the question, and their records.

Owns the levels, what a record of them says, and repairing one store from another. It never writes WAL or snapshots of
its own, and never talks to a person: the verb renders.
"""
