"""A policy in plain sentences: what it makes happen, and what this version doesn't run yet.

Pure: it reads the model and nothing else. It never says a secret, only where one is.
"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.policy.addresses import split_listen
from replicator.policy.daemon_model import DaemonPolicy
from replicator.policy.model import Policy, StorePolicy
from replicator.policy.units import format_duration, format_size

_ACKNOWLEDGED = {
    "spool": "it is fsynced in the spool, before any store has it: if this host is lost then, what only the spool"
    " held is a gap",
    "store": "at least one store has it durably",
    "stores": "every store has it durably",
}

_LATER = "Not run by this version:"


def explain(policy: Policy) -> list[str]:
    """The policy of one cluster, sentence by sentence."""
    parts = (_source, _stream, _stores, _encryption, _snapshot, _replicas, _tolerance, _later_stream, _upkeep)
    return [sentence for part in parts for sentence in part(policy)]


def explain_daemon(daemon: DaemonPolicy) -> list[str]:
    """daemon.toml, sentence by sentence."""
    guarded = f"who asks must show the token from {daemon.api.token}" if daemon.api.token else "nobody is asked who"
    sentences = [
        f"Status and metrics are served on {daemon.api.listen}; {guarded}.",
        f"The log is {'JSON, one object a line' if daemon.log.format == 'json' else 'text'}, from level"
        f" {daemon.log.level} on.",
        f"Local state is in {daemon.state.directory}; losing it costs only time.",
    ]
    if daemon.api.token is None and not _loopback(daemon.api.listen):
        sentences.append("Beware: whoever reaches that address can read the status of every cluster.")
    return sentences


def _loopback(listen: str) -> bool:
    host, _ = split_listen(listen)
    return host in {"localhost", "::1"} or host.startswith("127.")


def _source(policy: Policy) -> Iterator[str]:
    source = policy.source
    yield (
        f"Changes of {policy.cluster} are streamed through slot {source.slot} from the primary that answers to"
        f" {source.conninfo!r}."
    )
    if source.password:
        yield f"The password is taken from {source.password}."
    else:
        yield "No password is given: libpq looks for one in its own ways (.pgpass, certificates, peer)."
    if source.binaries:
        yield f"PostgreSQL's own programs are looked for in {source.binaries}."


def _stream(policy: Policy) -> Iterator[str]:
    stream = policy.stream
    yield f"A change is acknowledged to the primary when {_ACKNOWLEDGED[stream.acknowledge]}."
    yield (
        f"The spool {stream.spool} keeps what a store still misses; at {format_size(stream.spool_limit)} it lets go of"
        " what at least one store has, and then makes the primary's slot hold the rest."
    )
    yield _governor(policy)
    yield (
        f"Stores are at most about {format_duration(stream.piece_interval)} behind: a piece is cut that long after its"
        f" first byte, or at {format_size(stream.piece_size)}. An idle cluster uploads nothing."
    )


def _governor(policy: Policy) -> str:
    stream = policy.stream
    ends = ["its max_slot_wal_keep_size is reached"]
    if stream.slot_limit is not None:
        ends[0] += f" (without one: {format_size(stream.slot_limit)})"
    if policy.source.data_directory:
        ends.append("the disk of its pg_wal is full")
    if stream.protect == "data":
        does = 'nothing is given up: its disk may fill, or it removes the WAL (protect = "data")'
    else:
        does = "the slot is given up as a recorded gap, which a snapshot closes"
    return f"Status warns long before the primary keeps too much WAL for us; just before {' or '.join(ends)}, {does}."


def _stores(policy: Policy) -> Iterator[str]:
    if policy.compression.algorithm == "none":
        yield "WAL and snapshots are stored without compression."
    else:
        yield f"WAL and snapshots are compressed with zstd at level {policy.compression.level}."
    count = len(policy.stores)
    yield f"Every store holds a complete copy; there {'is one' if count == 1 else f'are {count}'}."
    yield from (_store(store) for store in policy.stores)
    if count == 1:
        yield "Beware: one store is one place to lose; a second one at another site is what backups are for."


def _store(store: StorePolicy) -> str:
    if store.scheme == "file":
        return f"Store {store.name} is the directory {store.directory}."
    where = f"at {store.endpoint}" if store.endpoint else "at AWS"
    prefix = f", below {store.prefix}/" if store.prefix else ""
    who = f"the keys from {store.access_key} and {store.secret_key}" if store.access_key else "the AWS environment"
    plain = " without TLS" if (store.endpoint or "").startswith("http://") else ""
    text = f"Store {store.name} is the S3 bucket {store.bucket}{prefix} {where}{plain}, with {who}."
    if store.object_lock is None:
        return text
    return (
        f"{text} Each object but pieces and notes is locked there for {format_duration(store.object_lock)}, and again"
        " when a new snapshot refers to it: nobody can delete it before."
    )


def _encryption(policy: Policy) -> Iterator[str]:
    encryption = policy.encryption
    if encryption.mode == "none":
        yield "Beware: nothing is encrypted. Objects are signed, so forging is found out, but anyone can read them."
    else:
        ways = [f"the passphrase from {encryption.passphrase}"] if encryption.passphrase else []
        count = len(encryption.recipients)
        ways += [f"{count} recipient key{'s' if count > 1 else ''}"] if count else []
        yield f"Everything is sealed with AES-256-GCM before it leaves this host; {' or '.join(ways)} can open it."
        if encryption.passphrase or encryption.identity:
            yield "This host can open the repository, so restores can be made here."
        else:
            yield "This host can write the repository and can't read it: restores are made where an identity is."
    if encryption.root:
        yield f"Only a repository with the root {encryption.root} is accepted."
    else:
        yield "No root is named: the first one seen is trusted and remembered. Put the one that init prints here."
    yield f"What this host writes is signed with the key in {encryption.writer_key}."


def _snapshot(policy: Policy) -> Iterator[str]:
    snapshot = policy.snapshot
    if snapshot.schedule is None:
        yield "Beware: no snapshot is scheduled. Without one nothing can be restored; take them by hand."
    else:
        yield f"A snapshot is taken at {snapshot.schedule!r} (cron, UTC, Sunday is 0); a missed one is made up once."
    beside = policy.source.data_directory
    source = f"from {beside}, where that is the server's own, else over" if beside else "over"
    limit = "as fast as it goes" if snapshot.rate_limit is None else f"at {format_size(snapshot.rate_limit)}/s"
    yield (
        f"A snapshot is read {source} the replication protocol {limit}, after a {snapshot.checkpoint} checkpoint, and"
        f" sealed by {snapshot.workers} worker{'s' if snapshot.workers > 1 else ''}."
    )
    replica = next((found for found in policy.replicas if found.name == snapshot.read_from), None)
    if replica is not None:
        yield (
            f"It is read from replica {replica.name} instead, over the network, where that follows the primary and is"
            f" at most {format_size(replica.max_lag)} behind; else from the primary all the same, and status says so."
        )


def _replicas(policy: Policy) -> Iterator[str]:
    for replica in policy.replicas:
        if replica.kind == "physical" and replica.follow == "primary":
            where = f"on {replica.host}" if replica.host else "on this host"
            yield (
                f"Replica {replica.name} is a standby {where}, port {replica.port}, in {replica.data_directory}, and"
                " follows the primary; `replicator replica create` makes it, and status complains when it is more than"
                f" {format_size(replica.max_lag)} behind."
            )


def _tolerance(policy: Policy) -> Iterator[str]:
    tolerance = policy.tolerance
    yield (
        f"A connection has {format_duration(tolerance.connect_timeout)}, a request"
        f" {format_duration(tolerance.request_timeout)}, all tries of one together"
        f" {format_duration(tolerance.retry_budget)}; after {tolerance.breaker_failures} failures in a row an endpoint"
        f" is left alone for {format_duration(tolerance.breaker_reset)}."
    )


def _later_stream(policy: Policy) -> Iterator[str]:
    """What the policy may say already and this version doesn't run: the way in."""
    if policy.relay:
        yield f"{_LATER} the relay on {policy.relay.listen}."
    for replica in policy.replicas:
        if replica.kind != "physical" or replica.follow != "primary":
            yield f"{_LATER} the {replica.kind} replica {replica.name}, following the {replica.follow}."


def _upkeep(policy: Policy) -> Iterator[str]:
    """What becomes of what is stored."""
    retention, verify = policy.retention, policy.verify
    if retention is None:
        yield "Nothing is ever pruned: there is no [retention]."
    else:
        counts = ((retention.daily, "daily"), (retention.weekly, "weekly"), (retention.monthly, "monthly"))
        kept = [f"{count} {noun}" for count, noun in counts if count]
        also = f" and {', '.join(kept)} snapshots" if kept else ""
        here = retention.prune == "daemon"
        who = "the daemon prunes after each snapshot" if here else "`replicator prune` runs elsewhere"
        yield (
            f"Every moment of the last {format_duration(retention.window)}{also} are kept, and what is pinned; {who}."
            " What goes leaves a day after it was let go of, and a store's last good snapshot never does."
        )
    if verify is None:
        yield "Nothing is verified by itself: there is no [verify]."
    else:
        when = f"at {verify.schedule!r} (cron, UTC)" if verify.schedule else "only when asked"
        count = len(verify.probes)
        probes = f"answers {count} probe{'s' if count > 1 else ''}" if count else "is asked no probe"
        yield (
            f"Every store is verified {when}: objects, coverage, a drill in {verify.scratch} whose server {probes}, and"
            f" a comparison. A proof older than {format_duration(verify.max_age)} is overdue."
        )
