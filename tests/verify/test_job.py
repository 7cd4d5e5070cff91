"""One verification from its levels to its records: what is kept, what counts as a proof, and what a failure means."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.moment import rfc3339
from replicator.core.progress import Progress, Report, silent
from replicator.errors import BinariesMissing, Conflict, IntegrityError, Interrupted, NotFound, StoreUnavailable
from replicator.repository.layout import record_name
from replicator.repository.records import RecordReader, list_records, proven_since, read_record, sign_record
from replicator.tolerance import Deadline
from replicator.verify.coverage import CoverageLevel
from replicator.verify.history import keep_record
from replicator.verify.job import verify
from replicator.verify.model import LevelResult, VerifyJob, result_of
from replicator.verify.proofs import Mark, read_marks, read_proofs
from replicator.verify.record import find_kept, list_kept
from replicator.verify.report import page, write_report
from replicator.verify.textfile import write_textfile
from tests.clock import FakeClock
from tests.verify.holding import NAMES, SYSTEM, Holding, codes, copy_of, make_holding, wrong


class Lame:
    """A level that can't run."""

    name = "drill"

    def run(self, job: VerifyJob, progress: Report, deadline: Deadline) -> LevelResult:
        """As Level."""
        raise BinariesMissing("no PostgreSQL 15 here", hint="Install it.")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Holding:
    """Two stores that are well."""
    return make_holding(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture
def holding(template: Holding, tmp_path: Path) -> Holding:
    """A copy of them."""
    return copy_of(template, tmp_path / "repository")


def test_a_record_is_kept_in_every_store(holding: Holding, tmp_path: Path) -> None:
    """Signed, the same bytes in each, naming its predecessor; `record list` and `show` find it."""
    first = holding.verify(tmp_path)
    second = holding.verify(tmp_path, "objects")
    listing = list_kept(holding.repository)
    assert [kept.name.id for kept in listing.records] == [*first.record_ids, *second.record_ids]
    assert all(kept.stores == NAMES and kept.record is not None for kept in listing.records)
    shown = find_kept(holding.repository, second.record_ids[0]).as_json()
    assert shown["previous"] == next(name for name in first.record_ids if "-objects-" in name)
    assert (shown["ok"], shown["kind"], shown["findings"]) == (True, "objects", [])
    assert find_kept(holding.repository, None).name.id == second.record_ids[0]
    with pytest.raises(NotFound):
        find_kept(holding.repository, "2001")


def test_a_proof_needs_every_store(holding: Holding, tmp_path: Path) -> None:
    """One damaged store leaves the repository without a proof by objects; the other store's stands."""
    holding.flip("local", holding.names["wal3"], 300)
    holding.verify(tmp_path, "objects")
    assert read_proofs(holding.repository, datetime.now(UTC))["objects"] is None
    assert holding.verify(tmp_path, "objects", repair=True).ok
    before = datetime.now(UTC)
    assert holding.verify(tmp_path, "objects").ok
    proof = read_proofs(holding.repository, datetime.now(UTC))["objects"]
    assert proof is not None
    assert abs((proof - before).total_seconds()) < 30
    reader = RecordReader(holding.repository.store("local"), holding.repository.keyring)
    records = reader.newest([SYSTEM], NAMES, before)
    assert proven_since(records, "objects", (*NAMES, "new"), SYSTEM) is None
    assert proven_since(records, "objects", NAMES, SYSTEM) == proof


def test_a_record_from_the_future_is_no_proof(holding: Holding, tmp_path: Path) -> None:
    """A host whose clock was wrong once must not leave a proof that never grows old, nor hide what came before."""
    assert holding.verify(tmp_path, "objects").ok
    proof = read_proofs(holding.repository, datetime.now(UTC))["objects"]
    ahead = datetime.now(UTC) + timedelta(days=400)
    facts = {
        "ok": True, "stores": list(NAMES), "proven": {name: rfc3339(ahead) for name in NAMES}, "facts": {},
        "findings": [],
    }  # fmt: skip
    name, data = sign_record(holding.repository.keyring, SYSTEM, "objects", facts, ahead)
    keep_record(holding.repository, name, data)
    assert read_proofs(holding.repository, datetime.now(UTC))["objects"] == proof is not None


def test_a_forged_or_changed_record_is_no_proof(holding: Holding, tmp_path: Path) -> None:
    """Records are believed by their signature alone."""
    holding.verify(tmp_path, "objects")
    name = list_records(holding.repository.store("local"), SYSTEM)[0]
    for store in NAMES:
        holding.flip(store, record_name(name), 60)
    assert read_proofs(holding.repository, datetime.now(UTC))["objects"] is None
    with pytest.raises(IntegrityError):
        read_record(holding.repository.store("local"), name, holding.repository.keyring)
    assert wrong(holding.level(tmp_path, "objects")) == [
        ("object_damaged", store, record_name(name)) for store in NAMES
    ]


def test_the_budget_is_spent_on_the_oldest_first(holding: Holding, tmp_path: Path) -> None:
    """A run cut by its time limit proves nothing; the runs after it go on where it ended, until all is proven."""
    clock = FakeClock()
    moment = clock.now() - timedelta(days=1)
    holding.age(moment)
    seen: list[int] = []
    total = sum(len(holding.files(store)) for store in NAMES)
    for _ in range(40):
        job = holding.job(tmp_path, clock=clock)
        result = verify(job, ("objects",), ticking(clock, 0.2), limit_s=2.0).levels["objects"]
        assert result.ok
        seen.append(result.checked)
        holding.age(clock.now())
        clock.pass_(3600)
        if set(result.proven) == set(NAMES):
            break
    assert set(result.proven) == set(NAMES)
    assert len(seen) > 2
    assert sum(seen) >= total
    assert min(result.proven.values()) < clock.now() - timedelta(hours=2)


def test_time_that_never_suffices_is_told_once_the_proof_is_overdue(holding: Holding, tmp_path: Path) -> None:
    """A limit that ends every run is quiet while the last proof counts, and exit 4 when it no longer does."""
    clock = FakeClock()
    assert holding.verify(tmp_path, "objects", clock=clock).ok
    clock.pass_(7 * 86400)
    holding.age(clock.now())  # all is to be looked at again
    early = verify(holding.job(tmp_path, clock=clock), ("objects",), ticking(clock, 5.0), limit_s=2.0)
    assert (early.exit_code, "not_all_verified" in codes(early.levels["objects"])) == (0, True)
    clock.pass_(2 * 86400)
    holding.age(clock.now())
    late = verify(holding.job(tmp_path, clock=clock), ("objects",), ticking(clock, 5.0), limit_s=2.0)
    assert late.exit_code == 4
    assert [found.code for found in late.levels["objects"].findings if found.affects] == ["proof_overdue"]
    assert late.levels["objects"].findings[-1].hint


def ticking(clock: FakeClock, seconds: float) -> Callable[[Progress], None]:
    """Time passes with every report."""
    return lambda _: clock.pass_(seconds)


def test_a_level_that_can_not_run_is_named(holding: Holding, tmp_path: Path) -> None:
    """Among others it is a finding and exits 4; asked for alone it has its own code."""
    levels = (CoverageLevel(), Lame())
    both = verify(holding.job(tmp_path), (), silent, levels=levels)
    assert both.exit_code == 4
    assert both.levels["coverage"].ok
    assert both.as_json()["levels"]["drill"]["findings"][0]["code"] == "binaries_missing"
    alone = verify(holding.job(tmp_path), ("drill",), silent, levels=levels)
    assert alone.exit_code == 9
    assert alone.record_ids == ()


def test_two_at_once_are_refused(holding: Holding, tmp_path: Path) -> None:
    """One verification of a cluster per host."""
    job = holding.job(tmp_path)
    with (job.state_directory / "verify.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict):
            verify(job, (), silent)


def test_a_stop_ends_it_soon(holding: Holding, tmp_path: Path) -> None:
    """No record is kept of a run that was interrupted."""
    stop = Event()
    stop.set()
    with pytest.raises(Interrupted):
        verify(replace(holding.job(tmp_path), stop=stop), ("objects",), silent)
    assert list_kept(holding.repository).records == ()


def test_one_store_away_is_named_and_the_other_is_proven(tmp_path: Path) -> None:
    """A store that does not answer is a finding; its records follow with the next run."""
    holding = make_holding(tmp_path / "repository")
    away = holding.base / "stores" / "offsite"
    away.rename(away.with_name("gone"))
    result = holding.verify(tmp_path)
    assert result.exit_code == 4
    for level in result.levels.values():
        assert [found[:2] for found in wrong(level)] == [("store_misconfigured", "offsite")]
        assert set(level.proven) == {"local"}
    (holding.base / "stores" / "local").rename(holding.base / "stores" / "lost")
    with pytest.raises(StoreUnavailable):
        raise next(iter(holding.verify(tmp_path, "objects").failures.values()))


def test_a_host_without_keys_verifies_what_it_can(holding: Holding, tmp_path: Path) -> None:
    """With recipients only signatures and digests are checked, and that is said; a flipped bit is found."""
    sealed = replace(holding.repository, keyring=holding.repository.keyring.without_secrets())
    result = holding.level(tmp_path, "objects", repository=sealed)
    assert result.ok
    assert {found.code for found in result.findings} == {"not_opened"}
    assert set(result.proven) == set(NAMES)
    for kind in ("wal3", "pack1", "snap1", "tail"):
        holding.flip("local", holding.names[kind], 400)
        assert ("object_damaged", "local", holding.names[kind]) in wrong(
            holding.level(tmp_path, "objects", repository=sealed)
        )


def test_a_host_without_a_writer_key_says_that_it_keeps_no_record(holding: Holding, tmp_path: Path) -> None:
    """The result stands, and a remark says why it is no proof."""
    reader = replace(holding.repository, keyring=holding.repository.keyring.with_writer(None))
    result = holding.level(tmp_path, "objects", repository=reader)
    assert result.ok
    assert {found.code for found in result.findings} == {"not_recorded"}
    assert list_kept(holding.repository).records == ()


def test_metrics_are_written_whole(holding: Holding, tmp_path: Path) -> None:
    """The textfile holds levels, findings and the age of each proof, and no temporary file is left."""
    result = holding.verify(tmp_path)
    path = tmp_path / "metrics" / "frk.prom"
    path.parent.mkdir()
    write_textfile(path, "frk", result, read_proofs(holding.repository, datetime.now(UTC)), datetime.now(UTC))
    text = path.read_text()
    assert 'replicator_verify_ok{cluster="frk",level="objects"} 1.0' in text
    assert 'replicator_proof_age_seconds{cluster="frk",kind="coverage"}' in text
    assert 'kind="drill"' not in text
    assert [found.name for found in path.parent.iterdir()] == ["frk.prom"]


def test_the_report_shows_findings_first(holding: Holding, tmp_path: Path) -> None:
    """One page without anything from elsewhere; what a store says is escaped."""
    holding.path("local", holding.names["new7"]).unlink()
    result = holding.verify(tmp_path)
    evil = Finding("x", "<script>alert(1)</script>", affects="all")
    shown = replace(result, levels={**result.levels, "drill": result_of("drill", (evil,), checked=0, elapsed_s=0.0)})
    write_report(
        tmp_path / "report.html", "frk", shown, read_proofs(holding.repository, datetime.now(UTC)), datetime.now(UTC)
    )
    text = (tmp_path / "report.html").read_text()
    assert (
        text == page("frk", shown, read_proofs(holding.repository, datetime.now(UTC)), datetime.now(UTC))
        or "<svg" in text
    )
    assert text.index("<h2>Findings") < text.index("<h2>Recoverable windows")
    assert "<script>" not in text
    assert "src=" not in text
    assert "href=" not in text
    assert holding.names["new7"] in text


def test_the_report_draws_proofs_in_the_windows(holding: Holding, tmp_path: Path) -> None:
    """A proof by a restore stands where the restore came to, one that reads all where its moment lies; others don't."""
    result = holding.verify(tmp_path)
    now = datetime.now(UTC)
    marks = read_marks(holding.repository, now)
    assert {(mark.kind, mark.store, mark.lsn) for mark in marks} == {
        (kind, store, None) for kind in ("objects", "coverage") for store in ("local", "offsite")
    }
    window = result.levels["coverage"].facts["stores"]["local"]["windows"][-1]
    reached = Lsn.parse(window["to_lsn"])
    drilled = (
        Mark("drill", "local", now, reached, window["timeline"]),
        Mark("compare", "local", now, Lsn(2**60), window["timeline"]),  # outside of every window
        Mark("drill", "gone", now, reached, window["timeline"]),
    )
    drawn = page("frk", result, {}, now, (*marks, *drilled))
    assert drawn.count(f"<title>drill at {reached}, proven") == 1
    assert "<title>compare" not in drawn
    assert drawn.count("<title>objects, proven") == drawn.count("<title>coverage, proven") == 2
    assert "<polygon" not in page("frk", result, {}, now)


def test_json_is_as_documented(holding: Holding, tmp_path: Path) -> None:
    """`verify --json` has exactly the keys that operators bind to."""
    holding.flip("local", holding.names["wal3"], 300)
    value = json.loads(json.dumps(holding.verify(tmp_path).as_json()))
    assert set(value) == {"ok", "levels"}
    for level in value["levels"].values():
        assert set(level) == {"ok", "checked", "elapsed_s", "findings"}
        for finding in level["findings"]:
            assert set(finding) == {"code", "object", "store", "affects", "text", "hint"}
