"""Care of a repository: making it, and what is done to it beside streaming, snapshots and restores."""
