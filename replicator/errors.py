"""Every error the product raises on purpose, with its exit code, whether a retry can help, and a hint.

Messages are lower case without a full stop; hints are full sentences. Nothing decides by message text:
what a handler needs is an attribute. Integrity errors are never retryable and never a kind of "missing".

    ReplicatorError                      1
    ├── UsageError                       2
    │   ├── PolicyError                  2   all problems of a file at once
    │   └── UnknownCluster               2
    ├── NotFound                         3
    │   ├── ObjectAbsent                 3   every store asked has answered: it is not there
    │   ├── SnapshotNotFound             3
    │   └── TargetUnreachable            3   carries the reachable windows
    ├── VerificationFailed               4
    │   ├── IntegrityError               4   bytes are not what was sealed and signed
    │   ├── RecoveryFailed               4   a restored cluster did not start or recover
    │   └── OpenGap                      4
    ├── SourceUnavailable                5   retryable
    │   ├── SourceRefused                5   not retryable at once: password, pg_hba, privilege
    │   ├── WalRemoved                   5   SQLSTATE 58P01: the only error that is a gap
    │   ├── SlotBusy                     5   another (or our own half-dead) connection holds the slot
    │   ├── ProtocolViolation            5   the server's bytes are not the protocol
    │   └── StreamNotRunning             5
    ├── StoreUnavailable                 6   retryable
    │   ├── StoreDenied                  6   credentials, permission
    │   ├── StoreMisconfigured           6   wrong bucket, wrong endpoint
    │   └── UploadLost                   6   a streamed object must be written again from its beginning
    ├── KeysError                        7
    │   ├── CannotOpen                   7   this host holds no key that opens
    │   ├── WrongSecret                  7   a passphrase or identity that fits no recipient
    │   └── UntrustedRepository          7   the root is not the pinned one, or a signature's writer is unknown
    ├── Conflict                         8
    │   ├── AlreadyExists                8   something is already there
    │   ├── WalConflict                  8   two contents for one range of WAL
    │   └── ForeignSource                8   another cluster, or a history that is not ours
    ├── HostLacks                        9   disk, memory, port, permission, PostgreSQL binaries
    │   ├── SpoolFull                    9
    │   └── BinariesMissing              9
    ├── DeadlineExceeded                 as the subclass that raises it; alone 1
    └── Interrupted                    130
"""

from __future__ import annotations

from typing import Any, ClassVar


class ReplicatorError(Exception):
    """Base of all. `hint` is one full sentence or empty; `context` holds facts (lsn, store) for logs and JSON."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context

    @property
    def type(self) -> str:
        """The name in `--json` errors: the class name."""
        return type(self).__name__

    def as_json(self) -> dict[str, Any]:
        """The value of `error` in a failure's JSON."""
        return {"type": self.type, "message": self.message, "hint": self.hint, "exit_code": self.exit_code}


class UsageError(ReplicatorError):
    """What was asked makes no sense as it was asked."""

    exit_code = 2


class PolicyError(UsageError):
    """A policy file is wrong; `problems` lists every problem with its place."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "", **context: Any) -> None:
        super().__init__(message, hint=hint, **context)
        self.problems = problems


class UnknownCluster(UsageError):
    """No policy of that name."""


class NotFound(ReplicatorError):
    """What was asked for is not there."""

    exit_code = 3


class ObjectAbsent(NotFound):
    """An object is not there: the store answered, it was not silent."""


class SnapshotNotFound(NotFound):
    """No snapshot of that label, or none at all."""


class TargetUnreachable(NotFound):
    """A recovery target outside every window; `windows` are the reachable ones, as JSON-able dicts."""

    def __init__(
        self, message: str, *, windows: tuple[dict[str, Any], ...] = (), hint: str = "", **context: Any
    ) -> None:
        super().__init__(message, hint=hint, **context)
        self.windows = windows


class VerificationFailed(ReplicatorError):
    """Something was checked and is not as it must be."""

    exit_code = 4


class IntegrityError(VerificationFailed):
    """Bytes, names or signatures are not what was sealed. Never retried, never read as absent."""


class RecoveryFailed(VerificationFailed):
    """A restored cluster did not start, did not recover to its target, or let nobody in."""


class OpenGap(VerificationFailed):
    """Coverage has a hole that no snapshot closed yet."""


class SourceUnavailable(ReplicatorError):
    """The source does not answer, or not as a primary."""

    exit_code = 5
    retryable = True


class SourceRefused(SourceUnavailable):
    """The source answered no: password, pg_hba.conf, privilege, setting."""

    retryable = False


class WalRemoved(SourceUnavailable):
    """SQLSTATE 58P01: the WAL asked for is no longer on the server. The only error that is a gap."""

    retryable = False


class SlotBusy(SourceUnavailable):
    """The slot is active for another connection."""


class ProtocolViolation(SourceUnavailable):
    """The server's bytes are not what the replication protocol says."""


class StreamNotRunning(SourceUnavailable):
    """A verb needs the daemon's stream and it does not advance."""

    retryable = False


class StoreUnavailable(ReplicatorError):
    """A store does not answer."""

    exit_code = 6
    retryable = True


class StoreDenied(StoreUnavailable):
    """A store refused our credentials or rights."""

    retryable = False


class StoreMisconfigured(StoreUnavailable):
    """No such bucket, a wrong endpoint, a directory that is not one."""

    retryable = False


class UploadLost(StoreUnavailable):
    """What was written of a streamed object is gone or of unknown state: write it again from its beginning."""

    retryable = False


class KeysError(ReplicatorError):
    """Keys are missing, wrong, or not trusted."""

    exit_code = 7


class CannotOpen(KeysError):
    """This host holds no private key for the repository."""


class WrongSecret(KeysError):
    """A passphrase or identity was given and fits no recipient."""


class UntrustedRepository(KeysError):
    """The root or a writer is not the one we trust."""


class Conflict(ReplicatorError):
    """Two truths for one thing, or something is already there."""

    exit_code = 8


class AlreadyExists(Conflict):
    """Something is already there (an object of that name, a non-empty directory)."""


class WalConflict(Conflict):
    """Two different contents for one range of WAL."""


class ForeignSource(Conflict):
    """Another system identifier, or a timeline history that is not the repository's."""


class HostLacks(ReplicatorError):
    """This host lacks disk, memory, a port, a permission, or a program."""

    exit_code = 9


class SpoolFull(HostLacks):
    """The spool is at its limit, or its disk is full."""


class BinariesMissing(HostLacks):
    """No PostgreSQL binaries of the major version that is needed."""


class DeadlineExceeded(ReplicatorError):
    """A wait ended by its deadline."""

    retryable = True


class Interrupted(ReplicatorError):
    """The operator or the supervisor asked us to stop."""

    exit_code = 130
