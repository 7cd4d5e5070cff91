"""What keeps a drill's server to itself: settings for the server, and for each session. Pure.

Its own socket, no network, no archiving, no subscriptions, no preloaded libraries; and no setting that hides damage.
"""

from __future__ import annotations

from replicator.verify.drill_scratch import RunDirectory


def safe_settings(run: RunDirectory, version: int, libraries: str = "") -> dict[str, str]:
    """What a drill's server is started with. Its own files: the tree's may name what is not on this host. Damage is
    told, whatever the source was told to ignore.
    """
    told = {"event_triggers": "off"} if version >= 170000 else {}
    if version < 150000:
        told["stats_temp_directory"] = "pg_stat_tmp"  # a server that starts empties it
    return told | {
        "config_file": str(run.path / "postgresql.conf"),
        "hba_file": str(run.path / "hba.conf"),
        "ident_file": str(run.path / "ident.conf"),
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "external_pid_file": "",
        "ssl": "off",
        "bonjour": "off",
        "archive_mode": "off",
        "archive_command": "",
        "primary_conninfo": "",
        "synchronous_standby_names": "",
        "max_logical_replication_workers": "0",
        "shared_preload_libraries": libraries,
        "session_preload_libraries": "",
        "local_preload_libraries": "",
        "autovacuum": "off",
        "restart_after_crash": "off",
        "zero_damaged_pages": "off",
        "ignore_checksum_failure": "off",
        "ignore_invalid_pages": "off",
        "ignore_system_indexes": "off",
        "dynamic_shared_memory_type": "mmap",
        "huge_pages": "try",
        "shared_buffers": "128MB",
        "log_statement": "none",
        "log_min_duration_statement": "-1",
        "cluster_name": "replicator drill",
    }


def quiet_options(version: int) -> tuple[str, ...]:
    """What a database or a role may not bring into a session: `name=value`."""
    told: tuple[str, ...] = ("session_preload_libraries=", "local_preload_libraries=")
    told = (*told, "zero_damaged_pages=off", "ignore_checksum_failure=off")
    return (*told, "event_triggers=off") if version >= 170000 else told
