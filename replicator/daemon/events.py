"""The names of the daemon's log events: operators' filters bind to them. docs/events.md is made from this table."""

from __future__ import annotations

from typing import Final

DAEMON_STARTED: Final = "daemon_started"
DAEMON_STOPPING: Final = "daemon_stopping"
DAEMON_STOPPED: Final = "daemon_stopped"
FLUSH_ENDED: Final = "flush_ended"
API_LISTENING: Final = "api_listening"
BUG: Final = "bug"
CLUSTER_OPENED: Final = "cluster_opened"
WORKER_FAILED: Final = "worker_failed"
WORKER_STOPPED: Final = "worker_stopped"
WORKER_RECOVERED: Final = "worker_recovered"
SCHEDULE_SET: Final = "schedule_set"
SNAPSHOT_REQUESTED: Final = "snapshot_requested"
VERIFICATION_REQUESTED: Final = "verification_requested"
MIRROR_REQUESTED: Final = "mirror_requested"
PRUNE_REQUESTED: Final = "prune_requested"
TASK_STARTED: Final = "task_started"
TASK_ENDED: Final = "task_ended"
TASK_FAILED: Final = "task_failed"
TASK_STOPPED: Final = "task_stopped"
TASK_WARNING: Final = "task_warning"
GAP_FOUND: Final = "gap_found"
STREAM_STATE: Final = "stream_state"
STORE_STATE: Final = "store_state"
PROBLEM: Final = "problem"
PROBLEM_ENDED: Final = "problem_ended"
POLICIES_RELOADED: Final = "policies_reloaded"
RELOAD_REFUSED: Final = "reload_refused"
RESTART_NEEDED: Final = "restart_needed"
CLUSTER_ENDED: Final = "cluster_ended"
SYSTEM_CHANGED: Final = "system_changed"

#: Event → (fields beside timestamp, level and cluster; meaning).
TABLE: Final = {
    DAEMON_STARTED: ("version, pid, clusters", "the daemon holds its locks and starts its workers"),
    DAEMON_STOPPING: ("reason", "a signal came, or a bug: what is received is flushed, then all ends"),
    DAEMON_STOPPED: ("exit_code", "the last line of an orderly end"),
    FLUSH_ENDED: ("only_in_spool_bytes", "what no store has yet when the flush ends; the next start ships it"),
    API_LISTENING: ("address", "the HTTP interface answers"),
    BUG: ("worker, exception", "an error that no code expected; the daemon ends with exit code 1"),
    CLUSTER_OPENED: ("repository", "a cluster's repository is open and its stream starts"),
    WORKER_FAILED: ("worker, error, hint, retry_s", "a worker failed and is tried again; said once until it runs well"),
    WORKER_STOPPED: ("worker, error, hint", "a worker failed in a way that no retry mends; its cluster is red"),
    WORKER_RECOVERED: ("worker", "a worker that had failed runs well again"),
    SCHEDULE_SET: ("schedule, next", "when the next snapshot is due"),
    VERIFICATION_REQUESTED: ("reason", "the repository is to be verified: schedule, missed or retry"),
    MIRROR_REQUESTED: ("reason", "the stores are to be mirrored: a store is back, or lacking snapshots, or retry"),
    PRUNE_REQUESTED: ("reason", "the stores are to be pruned: snapshot (a new one is there), daily, or retry"),
    SNAPSHOT_REQUESTED: ("reason", "a snapshot is to be taken: schedule, missed, first, gap, system or retry"),
    TASK_STARTED: ("kind, pid", "a child process began"),
    TASK_ENDED: ("kind, elapsed_s, result", "a child process did its work"),
    TASK_FAILED: ("kind, exit_code, error, hint, stderr", "a child process failed; the stream goes on"),
    TASK_STOPPED: ("kind, exit_code", "a child process was ended because the daemon ends"),
    TASK_WARNING: ("kind, text, hint", "a child process goes on, but not in the way that the policy says"),
    GAP_FOUND: ("gaps", "coverage has an open gap; it is answered with a snapshot"),
    STREAM_STATE: ("state, host, timeline", "the stream's state changed: `streaming`, or a word that says why not"),
    STORE_STATE: ("store, state", "a store's state changed: `ok`, or a word that says why it does not take"),
    PROBLEM: ("text, hint", "something is wrong about the stream; said once until it ended"),
    PROBLEM_ENDED: ("text", "it is well again"),
    POLICIES_RELOADED: ("added, changed, removed", "SIGHUP: the policies were read and taken over; others go on"),
    RELOAD_REFUSED: ("error, problems, hint", "SIGHUP: something is wrong with the policies; all runs as before"),
    RESTART_NEEDED: ("key", "SIGHUP: this key of daemon.toml differs and counts from the daemon's next start"),
    CLUSTER_ENDED: ("", "SIGHUP: the cluster has no policy any more; its stream has ended in an orderly way"),
    SYSTEM_CHANGED: ("system_id", "the source is another cluster, which was accepted; the stream begins anew with it"),
}


def reference() -> str:
    """The table in Markdown."""
    rows = "\n".join(f"| `{name}` | {fields} | {meaning} |" for name, (fields, meaning) in TABLE.items())
    return (
        "# Log events\n\n"
        "The daemon writes its log on standard error: one JSON object a line (`[log] format`), with `timestamp`,\n"
        "`level`, `event`, and `cluster` where it is about one. The table is made from `replicator/daemon/events.py`;\n"
        "a test keeps it current. Lines of other modules carry their sentence in `event`.\n\n"
        f"| event | fields | meaning |\n|---|---|---|\n{rows}\n"
    )
