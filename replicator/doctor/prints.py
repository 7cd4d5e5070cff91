"""What an operator writes elsewhere so that a policy can work: SQL, pg_hba.conf, a policy for S3 credentials. Pure.

Owns "least privilege": nothing here is more than the daemon, snapshots and restores need.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from typing import Any

from replicator.errors import UsageError
from replicator.policy import Policy, StorePolicy
from replicator.postgres.conninfo import keywords_of
from replicator.postgres.sqlbackup import functions

_PLACEHOLDER = "ADDRESS-OF-THIS-HOST"


def sql(policy: Policy) -> str:
    """The role: may log in, replicate, and read statistics and settings, and beside the server start and stop a backup;
    nothing else, no table.
    """
    user = _user(policy)
    role = user if user.isidentifier() and user == user.lower() else '"' + user.replace('"', '""') + '"'
    return "\n".join(
        [
            f"-- For cluster {policy.cluster}: run on the primary as a superuser; psql asks for the password.",
            f"CREATE ROLE {role} LOGIN REPLICATION;",
            f"GRANT pg_monitor TO {role};",
            *_beside(policy, role),
            f"\\password {role}",
        ]
    )


def _beside(policy: Policy, role: str) -> list[str]:
    """What reading the data directory takes beside replication."""
    if policy.source.data_directory is None:
        return []
    modern, older = (", ".join(functions(version)) for version in (150000, 130000))
    return [
        f"GRANT EXECUTE ON FUNCTION {modern} TO {role};  -- in the database that conninfo names",
        f"-- before PostgreSQL 15: GRANT EXECUTE ON FUNCTION {older} TO {role};",
    ]


def pg_hba(policy: Policy, own_address: Callable[[str], str | None]) -> str:
    """Lines for pg_hba.conf: this host and the hosts of replicas. `own_address`: ours, as a given host sees it."""
    given, user = keywords_of(policy.source.conninfo), _user(policy)
    databases = ("replication", given.get("dbname") or user)
    host = (given.get("hostaddr") or given.get("host") or "").split(",")[0]
    lines = [f"# For cluster {policy.cluster}: put them above wider lines, then SELECT pg_reload_conf();"]
    if not host or host.startswith("/"):
        return "\n".join([*lines, *(f"local    {name:<12} {user:<14} {'':<22} peer" for name in databases)])
    kind = "host" if given.get("sslmode") == "disable" or _loopback(host) else "hostssl"
    addresses = [own_address(host) or _PLACEHOLDER]
    addresses += [replica.host for replica in policy.replicas if replica.host and not replica.host.startswith("/")]
    for address in dict.fromkeys(addresses):
        lines += [f"{kind:<8} {name:<12} {user:<14} {_mask(address):<22} scram-sha-256" for name in databases]
    return "\n".join(lines)


def _user(policy: Policy) -> str:
    return keywords_of(policy.source.conninfo).get("user") or "replicator"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _mask(address: str) -> str:
    try:
        return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"
    except ValueError:
        return address  # pg_hba.conf takes host names too


def s3_policy(policy: Policy) -> str:
    """An IAM policy for the daemon's credentials: create and read everything of the cluster, delete what gives way.
    Raises UsageError without an S3 store.
    """
    stores = [store for store in policy.stores if store.scheme == "s3"]
    if not stores:
        raise UsageError(f"{policy.cluster} has no S3 store", hint="There is nothing to allow for a directory.")
    statements = [one for number, store in enumerate(stores, 1) for one in _statements(policy, store, number)]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def _statements(policy: Policy, store: StorePolicy, number: int) -> Iterator[dict[str, Any]]:
    bucket = f"arn:aws:s3:::{store.bucket}"
    home = "/".join(part for part in (bucket, store.prefix, policy.cluster) if part)
    locks = ["s3:PutObjectRetention", "s3:GetObjectRetention"] if store.object_lock is not None else []
    listing = ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketObjectLockConfiguration"]
    objects = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:AbortMultipartUpload", *locks]
    yield _allow(f"List{number}", listing, [bucket])
    yield _allow(f"Create{number}", objects, [f"{home}/*"])
    giving_way = [f"{home}/*/pieces/*", f"{home}/probe/*"]
    yield _allow(f"GiveWay{number}", ["s3:DeleteObject", "s3:DeleteObjectVersion"], giving_way)
    if policy.retention is not None and policy.retention.prune == "daemon":
        yield _allow(f"Prune{number}", ["s3:DeleteObject", "s3:DeleteObjectVersion"], [f"{home}/*"])


def _allow(sid: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
