"""What all targets of one mirror share: who is silent, what was found, how far it is. Safe to use from several threads.

Owns what an error on the way means: a store that does not answer is left alone, an object that is not as it was signed
is named, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock
from types import TracebackType

from replicator.core.finding import Finding
from replicator.core.progress import Progress, Report, silent
from replicator.errors import IntegrityError, Interrupted, ObjectAbsent, ReplicatorError, StoreUnavailable
from replicator.repository.repository import Repository
from replicator.upkeep.keys_documents import RootDocuments
from replicator.upkeep.mirror_copy import SourceAway, TargetDamaged

KIND = "mirror"
_HINT = "Run `replicator verify --objects --repair`: it takes the object from another store that has it well."


class Shared:
    """One mirror's own state. `keyring` holds no private half."""

    def __init__(
        self, repository: Repository, documents: RootDocuments, stop: Event, steps: Callable[[str], None], workers: int
    ) -> None:
        self.repository = repository
        self.keyring = repository.keyring.without_secrets()
        self.steps = steps
        self.workers = workers
        self.silent: dict[str, ReplicatorError] = dict(documents.silent)
        self.findings: list[Finding] = []
        self.lock = Lock()
        self.aborted = Event()
        self.report: Report = silent
        self.phase = ""
        self.done = self.total = 0
        self._held = tuple(documents.held)
        self._stop = stop

    def answering(self) -> tuple[str, ...]:
        """The stores that answer still."""
        return tuple(name for name in self._held if name not in self.silent)

    def tick(self, size: int) -> None:
        """So many bytes more were read. Raises Interrupted."""
        if self._stop.is_set() or self.aborted.is_set():
            raise Interrupted("the mirror was interrupted", hint="Run it again: it goes on where it was.")
        with self.lock:
            self.done += size
            progress = Progress(KIND, self.phase, self.done, max(self.total, self.done))
        if size:
            self.report(progress)

    def found(self, finding: Finding) -> None:
        """Something is wrong; each thing is said once."""
        with self.lock:
            known = {(other.code, other.object, other.store, other.affects) for other in self.findings}
            if (finding.code, finding.object, finding.store, finding.affects) not in known:
                self.findings.append(finding)

    def damaged(self, store: str, name: str, error: IntegrityError, affects: str | None = None) -> None:
        """An object is not as it was signed."""
        text = f"store {store}: {error.message}"
        self.found(Finding("object_damaged", text, _HINT, affects=affects or name, object=name, store=store))

    def silence(self, store: str, error: StoreUnavailable) -> None:
        """A store does not answer: nothing more is asked of it."""
        with self.lock:
            self.silent.setdefault(store, error)

    def guarding(self, store: str, name: str = "", *, target: str = "", affects: str | None = None) -> Guard:
        """A context in which errors about an object of `store` (being copied to `target`) are noted and ended."""
        return Guard(self, store, name, target, affects)


class Guard:
    """See `Shared.guarding`. `failed`: an error was noted; `ended`: trying another source makes no sense."""

    def __init__(self, shared: Shared, store: str, name: str, target: str, affects: str | None) -> None:
        self._shared = shared
        self._store, self._name, self._target, self._affects = store, name, target, affects
        self.failed = self.ended = False

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        match error:
            case SourceAway():
                self._shared.silence(self._store, error.error)
            case TargetDamaged():
                self._shared.damaged(self._target, self._name, error.error, self._affects)
                self.ended = True
            case StoreUnavailable() if not self._target:
                self._shared.silence(self._store, error)
            case IntegrityError() if self._name:
                self._shared.damaged(self._store, self._name, error, self._affects)
            case ObjectAbsent() if self._name:
                pass
            case _:
                return False
        self.failed = True
        return True
