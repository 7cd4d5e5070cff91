"""The models of a policy: one cluster, as its file says it.

Owns every key's name, notation, default and description (docs/policy.md is made from them). Attribute names are the
TOML's keys; `[[store]]` and `[[replica]]` become `stores` and `replicas`, `[[verify.probe]]` becomes `probes`.
Durations are seconds, sizes are bytes, "off" is None. Models are frozen and hold references to secrets, never secrets.
Build one with `parse_policy` in load.py: it also checks what concerns several keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, model_validator

from replicator.policy import addresses, values
from replicator.policy.compression import COMPRESSION, Compression
from replicator.policy.secrets import SecretRef
from replicator.policy.written import or_off


def _derived(words: str) -> Callable[[dict[str, Any]], None]:
    """A default that other facts decide: the schema says it in words, not as a value."""

    def describe(schema: dict[str, Any]) -> None:
        schema.pop("default", None)
        schema["x-default"] = words

    return describe


class Table(BaseModel):
    """A TOML table: frozen, and every key it doesn't know is a problem."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


class SourcePolicy(Table):
    """Where the cluster is, and as whom we stream from it."""

    conninfo: Annotated[str, addresses.CONNINFO] = Field(
        description="libpq's connection string, without a password; several hosts are tried for the primary"
    )
    password: Annotated[SecretRef | None, values.SECRET] = Field(
        default=None,
        description="the replication user's password; absent: libpq's own ways (.pgpass, certificates, peer)",
    )
    slot: Annotated[str, values.SLOT] = Field(
        default="",
        json_schema_extra=_derived("`replicator_<cluster>`"),
        description="the physical slot, and application_name unless conninfo sets it",
    )
    data_directory: Annotated[Path | None, values.PATH] = Field(
        default=None, description="the server's data directory, only where the daemon runs beside the server"
    )
    binaries: Annotated[Path | None, values.PATH] = Field(
        default=None, description="where `<major>/bin` is found; absent: PATH and the usual places"
    )


class StorePolicy(Table):
    """One place for the repository: a directory or an S3 bucket. Each store holds a complete copy."""

    name: Annotated[str, values.NAME] = Field(description="the name that --store takes and status shows")
    url: Annotated[str, addresses.STORE_URL] = Field(
        description="the directory or bucket; `<cluster>/` is put below it"
    )
    endpoint: Annotated[str | None, addresses.ENDPOINT] = Field(
        default=None, description="the S3 service's address; absent: AWS. Only with s3://, as all keys below"
    )
    region: Annotated[str | None, values.STRING] = Field(
        default=None, description="the S3 region; absent: the service's own"
    )
    access_key: Annotated[SecretRef | None, values.SECRET] = Field(
        default=None, description="absent, with secret_key: the usual AWS environment"
    )
    secret_key: Annotated[SecretRef | None, values.SECRET] = Field(default=None, description="belongs to access_key")
    ca: Annotated[Path | None, values.PATH] = Field(
        default=None, description="certificates to trust for the endpoint, PEM; absent: the system's"
    )
    object_lock: Annotated[float | None, or_off(values.duration("1d", "36500d"))] = Field(
        default="off", validate_default=True, description="how long the bucket refuses to delete an object"
    )

    @property
    def scheme(self) -> str:
        """`file` or `s3`."""
        return addresses.split_store_url(self.url)[0]

    @property
    def directory(self) -> Path:
        """Where a file:// store is."""
        return Path(addresses.split_store_url(self.url)[2])

    @property
    def bucket(self) -> str:
        """An s3:// store's bucket."""
        return addresses.split_store_url(self.url)[1]

    @property
    def prefix(self) -> str:
        """An s3:// store's prefix, without slashes around it; empty when there is none."""
        return addresses.split_store_url(self.url)[2] if self.scheme == "s3" else ""


class EncryptionPolicy(Table):
    """What seals the repository, who can open it, and which root and writer are trusted."""

    mode: Literal["aes-256-gcm", "none"] = Field(
        default="aes-256-gcm", description="none must be said; it keeps signatures"
    )
    passphrase: Annotated[SecretRef | None, values.SECRET] = Field(
        default=None, description="opens the repository; a host that has it can restore"
    )
    recipients: Annotated[tuple[str, ...], values.RECIPIENTS] = Field(
        default=(), description="who else can open it; at least one of passphrase, recipients unless mode is none"
    )
    identity: Annotated[SecretRef | None, values.SECRET] = Field(
        default=None, description="a recipient's private key, only where restores are made"
    )
    root: Annotated[str | None, values.ED25519] = Field(
        default=None, description="printed by init; absent: the first one seen is pinned in the state directory"
    )
    writer_key: Annotated[Path, values.SECRET_FILE] = Field(
        default=Path("writer.key"),
        json_schema_extra=_derived("writer.key beside the policies"),
        description="this host's signing key, made by init",
    )


class StreamPolicy(Table):
    """How WAL is received, kept and shipped."""

    acknowledge: Literal["spool", "store", "stores"] = Field(
        default="spool",
        description="where a byte is durable before the primary hears of it: here, in one store, in all",
    )
    spool: Annotated[Path, values.PATH] = Field(
        default="/var/lib/replicator/spool", validate_default=True, description="fsynced WAL that a store still misses"
    )
    spool_limit: Annotated[int, values.size("1MB", "1024TB")] = Field(
        default="10GB", validate_default=True, description="at this size the receiver pushes back to the primary's slot"
    )
    piece_interval: Annotated[float, values.duration("10ms", "1h")] = Field(
        default="1s", validate_default=True, description="a piece is cut this long after its first byte"
    )
    piece_size: Annotated[int, values.size("8kB", "1GB")] = Field(
        default="1MB", validate_default=True, description="or when it holds this much"
    )
    protect: Literal["primary", "data"] = Field(
        default="primary", description="what the slot governor gives up when it must choose"
    )
    slot_limit: Annotated[int | None, or_off(values.size("1MB", "1024TB"))] = Field(
        default="32GB",
        validate_default=True,
        description="the most WAL that the slot may keep on a primary without max_slot_wal_keep_size",
    )


class RelayPolicy(Table):
    """The daemon's own walsender, for standbys. Absent: none."""

    listen: Annotated[str, addresses.LISTEN] = Field(default="127.0.0.1:6432", description="one port for each cluster")


class SnapshotPolicy(Table):
    """When and how snapshots are taken."""

    schedule: Annotated[str | None, or_off(values.CRON)] = Field(
        default="off", validate_default=True, description="cron, UTC, Sunday = 0; a missed run is made up once"
    )
    workers: Annotated[int, values.integer(1, 64)] = Field(default=2, description="threads that compress and seal")
    rate_limit: Annotated[int | None, or_off(values.size("32kB", "1GB"))] = Field(
        default="off", validate_default=True, description="the most that is read from the server in a second"
    )
    checkpoint: Literal["fast", "spread"] = Field(default="fast", description="fast begins at once, spread is gentler")
    read_from: Annotated[str, values.NAME] = Field(
        default="primary", description='"primary", or the name of a replica, which is read while it follows'
    )


class RetentionPolicy(Table):
    """What is kept. Absent: everything."""

    window: Annotated[float, values.duration("0s", "36500d")] = Field(
        default="14d", validate_default=True, description="every moment this far back stays reachable"
    )
    daily: Annotated[int, values.integer(0, 10_000)] = Field(
        default=0, description="days of which one snapshot is kept"
    )
    weekly: Annotated[int, values.integer(0, 10_000)] = Field(default=0, description="the same in weeks")
    monthly: Annotated[int, values.integer(0, 10_000)] = Field(default=0, description="the same in months")
    prune: Literal["daemon", "elsewhere"] = Field(
        default="daemon", description="elsewhere: another host's credentials delete, this one's needn't"
    )


class ProbePolicy(Table):
    """A question that a drill asks the restored server."""

    database: Annotated[str, values.STRING] = Field(description="the database it is asked in")
    sql: Annotated[str, values.STRING] = Field(description="a query; its first value is judged, by one of these:")
    at_least: Annotated[int | None, values.integer(0, 10**15)] = Field(
        default=None, json_schema_extra=_derived("1 without the others"), description="the least number that passes"
    )
    equals: Annotated[int | str | None, values.VALUE] = Field(default=None, description="the only value that passes")
    newer_than: Annotated[float | None, values.duration("1s", "36500d")] = Field(
        default=None,
        description="the value is a time with its zone, no further before the moment that was restored to",
    )

    @model_validator(mode="after")
    def _judged(self) -> ProbePolicy:
        """Without any other the least number is 1."""
        if self.at_least is None and self.equals is None and self.newer_than is None:
            object.__setattr__(self, "at_least", 1)
        return self


class VerifyPolicy(Table):
    """When and how the repository is proven. Absent: never by itself."""

    schedule: Annotated[str | None, or_off(values.CRON)] = Field(
        default="off", validate_default=True, description="cron, UTC, Sunday = 0"
    )
    scratch: Annotated[Path, values.PATH] = Field(
        default="/var/lib/replicator/scratch", validate_default=True, description="where drills restore to"
    )
    max_age: Annotated[float, values.duration("1m", "3650d")] = Field(
        default="8d", validate_default=True, description="a proof older than this is overdue"
    )
    hold_limit: Annotated[float, values.duration("1s", "1d")] = Field(
        default="1h", validate_default=True, description="for this long a comparison may hold a replica's replay"
    )
    probes: tuple[ProbePolicy, ...] = Field(default=(), alias="probe", description="questions for a drill")


class ReplicaPolicy(Table):
    """A standby or a logical subscriber."""

    name: Annotated[str, values.NAME] = Field(description="the name that verbs take and status shows")
    host: Annotated[str | None, values.STRING] = Field(default=None, description="where it runs; absent: this host")
    data_directory: Annotated[Path, values.PATH] = Field(description="its data directory")
    port: Annotated[int, values.integer(1, 65535)] = Field(default=5432, description="its port")
    follow: Literal["relay", "primary"] = Field(default="relay", description="whom it streams from")
    kind: Literal["physical", "logical"] = Field(default="physical", description="a standby or a subscriber")
    max_lag: Annotated[int, values.size("1kB", "1024TB")] = Field(
        default="16MB", validate_default=True, description="further behind than this it is not well"
    )


class TolerancePolicy(Table):
    """Deadlines, budgets and breakers towards servers and stores."""

    connect_timeout: Annotated[float, values.duration("10ms", "10m")] = Field(
        default="5s", validate_default=True, description="for a connection to stand"
    )
    request_timeout: Annotated[float, values.duration("10ms", "1h")] = Field(
        default="30s", validate_default=True, description="for one request to be answered"
    )
    retry_budget: Annotated[float, values.duration("0s", "1d")] = Field(
        default="2m", validate_default=True, description="all tries of one request together; 0s: one try"
    )
    breaker_failures: Annotated[int, values.integer(1, 1000)] = Field(
        default=5, description="failures in a row after which an endpoint is left alone"
    )
    breaker_reset: Annotated[float, values.duration("10ms", "1d")] = Field(
        default="30s", validate_default=True, description="for this long, then one request tries again"
    )


class Policy(Table):
    """One cluster: where it is, where its repository is kept, and what is promised about it."""

    cluster: Annotated[str, values.NAME] = Field(description="the cluster's name; it outlives failover and upgrades")
    compression: Annotated[Compression, COMPRESSION] = Field(
        default="zstd:3", validate_default=True, description="of WAL and snapshots"
    )
    source: SourcePolicy = Field(description="the PostgreSQL cluster")
    stores: tuple[StorePolicy, ...] = Field(alias="store", description="where the repository is kept")
    encryption: EncryptionPolicy = Field(description="how it is sealed")
    stream: StreamPolicy = Field(default_factory=StreamPolicy, description="WAL, as it happens")
    relay: RelayPolicy | None = Field(default=None, description="WAL for standbys")
    snapshot: SnapshotPolicy = Field(default_factory=SnapshotPolicy, description="base backups")
    retention: RetentionPolicy | None = Field(default=None, description="what is kept")
    verify: VerifyPolicy | None = Field(default=None, description="proofs that it can be restored")
    replicas: tuple[ReplicaPolicy, ...] = Field(default=(), alias="replica", description="standbys and subscribers")
    tolerance: TolerancePolicy = Field(default_factory=TolerancePolicy, description="patience, and its end")

    _path: Path = PrivateAttr(default=Path("policy.toml"))

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any, info: ValidationInfo) -> Any:
        """The two defaults that other facts decide: the slot's name and the writer key's place."""
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        cluster, source, encryption = (data.get(key) for key in ("cluster", "source", "encryption"))
        if isinstance(source, dict) and values.is_name(cluster):
            filled["source"] = {"slot": f"replicator_{cluster.replace('-', '_')}"[:63], **source}
        path = (info.context or {}).get("path")
        if isinstance(encryption, dict) and path is not None:
            filled["encryption"] = {"writer_key": {"file": str(path.parent.absolute() / "writer.key")}, **encryption}
        return filled

    def model_post_init(self, context: Any) -> None:
        """Remember the file; it is a fact about the policy, not one of its keys."""
        if context and "path" in context:
            self._path = context["path"]

    @property
    def path(self) -> Path:
        """The file it came from."""
        return self._path

    def store(self, name: str) -> StorePolicy | None:
        """The store of that name; None when the policy has none."""
        return next((store for store in self.stores if store.name == name), None)
