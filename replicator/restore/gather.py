"""What the planner stands on, read from the stores: catalogs, summaries, packs, send times.

Owns which stores are asked and what a silent one means: a plan may do without it, "unreachable" may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from replicator.errors import IntegrityError, NotFound, ObjectAbsent, StoreUnavailable
from replicator.repository.catalog import StoreCatalog, read_catalog, system_ids
from replicator.repository.claims import verified
from replicator.repository.known import NOTHING, KnownReader
from replicator.repository.layout import PackName, WalName, pack_name, packs_prefix, parse_name, wal_prefix
from replicator.repository.manifests import read_summary
from replicator.repository.objects import read_table
from replicator.repository.repository import Repository
from replicator.restore.plan import PlanRequest, RecoveryPlan, StoreView, plan
from replicator.restore.probe import WalProbe
from replicator.restore.route import Route
from replicator.restore.walfile import renewed
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore


@dataclass(frozen=True)
class Gathered:
    """Views, newest system id first, the stores that did not answer, and what was left out as wrong. `quick`: signed
    ranges and summaries were believed where there are any.
    """

    views: tuple[StoreView, ...]
    silent: Mapping[str, StoreUnavailable] = field(default_factory=dict)
    damaged: tuple[IntegrityError, ...] = ()
    quick: bool = False


def gather(repository: Repository, *, quick: bool = False) -> Gathered:
    """Read every store of `repository`; with `quick` in few requests, believing what its ranges and summaries say.
    Raises StoreUnavailable when none answers, IntegrityError.
    """
    views: list[StoreView] = []
    silent: dict[str, StoreUnavailable] = {}
    damaged: list[IntegrityError] = []
    for name, store in repository.stores.items():
        try:
            ranges = KnownReader(store, repository.keyring) if quick else None
            for system_id in system_ids(store):
                listed = read_catalog(store, system_id, repository.keyring, ranges=ranges)
                catalog = verified(listed, store, repository.keyring)
                damaged += [
                    IntegrityError(f"store {name}: {wrong} is not what its name says", object=wrong)
                    for wrong in catalog.damaged
                ]
                views.append(_view(store, catalog, repository.keyring, damaged))
        except StoreUnavailable as error:
            silent[name] = error
    if silent and len(silent) == len(repository.stores):
        raise next(iter(silent.values()))
    newest = {view.catalog.system_id: "" for view in views}
    for view in views:
        for snapshot in view.catalog.snapshots:
            newest[snapshot.system_id] = max(newest[snapshot.system_id], snapshot.label)
    ordered = sorted(views, key=lambda view: newest[view.catalog.system_id], reverse=True)
    believed = any(view.catalog.known != NOTHING for view in ordered)
    return Gathered(tuple(ordered), silent, tuple(damaged), believed)


def _view(store: ReadableStore, catalog: StoreCatalog, keyring: Keyring, damaged: list[IntegrityError]) -> StoreView:
    """The view without snapshots whose manifest is damaged: others may still be restored. Where summaries tell of
    snapshots, packs are not listed: a manifest is put after them, and a plan looks for those that it needs.
    """
    known = catalog.known.summaries
    summaries = {found.label: known[found] for found in catalog.snapshots if found in known}
    for found in catalog.snapshots:
        if found in known:
            continue
        try:
            summaries[found.label] = read_summary(store, found, keyring)
        except ObjectAbsent:
            continue  # removed since it was listed
        except IntegrityError as error:
            damaged.append(error)
    good = tuple(found for found in catalog.snapshots if found.label in summaries)
    if known:
        summaries = {label: replace(summary, packs=()) for label, summary in summaries.items()}
    listed = store.list(packs_prefix(catalog.system_id)) if good and not known else ()
    places = (parse_name(info.name) for info in listed)
    packs = frozenset(place.pack for place in places if isinstance(place, PackName))
    return StoreView(replace(catalog, snapshots=good), summaries, packs)


class StoreTimes:
    """SendTimes from the signed tables: one suffix range for each object asked about, kept; none where a range has
    told.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._kept: dict[tuple[str, str], tuple[int, int]] = {}

    def sent_us(self, route: Route, number: int) -> int:
        """As SendTimes."""
        return self._times(route, number, -1)[1]

    def begun_us(self, route: Route, number: int) -> int:
        """As SendTimes."""
        return self._times(route, number, 0)[0]

    def _times(self, route: Route, number: int, which: int) -> tuple[int, int]:
        """First and last time of one object of a file, the first (0) or the last (-1). One that has gone since the
        catalog was read is looked up again.
        """
        file = route.file(number)
        if not file.sources:
            return 0, 0
        told = route.catalog.known.times(file.sources[which].name)
        if told is not None:
            return told
        try:
            return self._of(route.catalog.store, file.sources[which].name)
        except ObjectAbsent:
            file = renewed(self._repository.store(route.catalog.store), file)
            return self._of(route.catalog.store, file.sources[which].name)

    def _of(self, store: str, name: str) -> tuple[int, int]:
        key = (store, name)
        if key not in self._kept:
            table = read_table(self._repository.store(store), name, self._repository.keyring)
            self._kept[key] = table.first_us, table.last_us
        return self._kept[key]


def plan_from(repository: Repository, request: PlanRequest, gathered: Gathered, probe: WalProbe | None) -> RecoveryPlan:
    """`plan` over what was gathered. "Not there" is said only when every store has answered. What only ranges and
    summaries told is looked at before a plan stands on it; where it is not so, or nothing is found, all is listed.

    Raises what `plan` does, and StoreUnavailable in the place of NotFound while a store is silent, or the
    IntegrityError of a manifest or WAL that was left out: it may be what is not there.
    """
    if gathered.quick:
        with suppress(NotFound, IntegrityError):
            found = confirmed(repository, _plan_from(repository, request, gathered, probe))
            if found is not None:
                return found
        gathered = gather(repository)
    return _plan_from(repository, request, gathered, probe)


def _plan_from(
    repository: Repository, request: PlanRequest, gathered: Gathered, probe: WalProbe | None
) -> RecoveryPlan:
    try:
        found = plan(request, gathered.views, StoreTimes(repository), probe)
    except NotFound as error:
        if gathered.damaged:
            first = gathered.damaged[0]
            raise IntegrityError(
                f"{first.message}; without it {error.message}", hint=error.hint, **first.context
            ) from error
        if not gathered.silent:
            raise
        name, silence = next(iter(gathered.silent.items()))
        raise StoreUnavailable(
            f"store {name} does not answer ({silence.message}), and elsewhere {error.message}",
            hint=error.hint or "Try again when it answers, or name another store with --store.",
            store=name,
        ) from error
    warnings = [f"left out: {error.message}" for error in gathered.damaged]
    warnings += [f"store {name} does not answer: {error.message}" for name, error in gathered.silent.items()]
    return replace(found, warnings=(*found.warnings, *warnings))


def confirmed(repository: Repository, found: RecoveryPlan) -> RecoveryPlan | None:
    """The plan with its manifest's summary, after looking that the manifest, the packs and the complete segments that
    it stands on are there, and no second content of a segment: ranges and summaries are no proof of that. None where
    it is not so.

    Raises ObjectAbsent, IntegrityError, StoreUnavailable.
    """
    store, snapshot = repository.store(found.store), found.snapshot
    summary = read_summary(store, snapshot, repository.keyring)
    if replace(summary, packs=()) != replace(found.summary, packs=()):
        return None
    wanted = {packs_prefix(snapshot.system_id): [pack_name(snapshot.system_id, pack) for pack in summary.packs]}
    for name in (source.name for file in found.files for source in file.sources if source.whole):
        place = parse_name(name)
        assert isinstance(place, WalName)
        wanted.setdefault(wal_prefix(place.system_id, place.timeline), []).append(name)
    if all(_listed(store, prefix, names) for prefix, names in wanted.items()):
        return replace(found, summary=summary)
    return None


def _listed(store: ReadableStore, prefix: str, names: Sequence[str]) -> bool:
    """Whether all of these names are listed, and none beside that claims a segment of theirs: looked at is what lies
    between the first and the last of them.
    """
    if not names:
        return True
    absent, stems = set(names), {name.rpartition("-")[0] for name in names}
    last = max(stems)
    for info in store.list(prefix, after=min(stems)):
        stem = info.name.rpartition("-")[0]
        if stem > last:
            break
        if info.name in absent:
            absent.discard(info.name)
        elif stem in stems and isinstance(parse_name(info.name), WalName):
            return False
    return not absent
