"""The daemon: every cluster's stream, snapshots as child processes, the schedule, signals, and the orderly end.

Owns threads and processes. It never imports what a child runs (snapshot, restore, upkeep) and never serves HTTP itself.
"""
