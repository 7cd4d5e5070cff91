"""Policies: TOML files made into frozen models, checked, explained, described.

Owns what a policy may say. It never connects to anything, and it hands out secrets only through `resolve_secret`.
"""

from replicator.policy.compression import Compression
from replicator.policy.cron import Schedule
from replicator.policy.daemon_model import ApiPolicy, DaemonPolicy, LogPolicy, StatePolicy
from replicator.policy.explain import explain, explain_daemon
from replicator.policy.load import (
    find_policies_directory,
    load_cluster,
    load_daemon_policy,
    load_files,
    load_policies,
    load_policy,
    parse_policy,
    unknown_cluster,
)
from replicator.policy.model import (
    EncryptionPolicy,
    Policy,
    ProbePolicy,
    RelayPolicy,
    ReplicaPolicy,
    RetentionPolicy,
    SnapshotPolicy,
    SourcePolicy,
    StorePolicy,
    StreamPolicy,
    TolerancePolicy,
    VerifyPolicy,
)
from replicator.policy.reference import reference, schema
from replicator.policy.secrets import SecretRef, resolve_secret
from replicator.policy.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "ApiPolicy",
    "Compression",
    "DaemonPolicy",
    "EncryptionPolicy",
    "LogPolicy",
    "Policy",
    "ProbePolicy",
    "RelayPolicy",
    "ReplicaPolicy",
    "RetentionPolicy",
    "Schedule",
    "SecretRef",
    "SnapshotPolicy",
    "SourcePolicy",
    "StatePolicy",
    "StorePolicy",
    "StreamPolicy",
    "TolerancePolicy",
    "VerifyPolicy",
    "explain",
    "explain_daemon",
    "find_policies_directory",
    "format_duration",
    "format_size",
    "load_cluster",
    "load_daemon_policy",
    "load_files",
    "load_policies",
    "load_policy",
    "parse_duration",
    "parse_policy",
    "parse_size",
    "reference",
    "resolve_secret",
    "schema",
    "unknown_cluster",
]
