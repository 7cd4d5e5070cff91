"""Ranges and summaries as values: what is signed comes back, and nothing else does."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError
from replicator.repository.known import smallest_cover
from replicator.repository.layout import (
    PackId,
    RangeName,
    SummaryName,
    locked,
    parse_name,
    range_name,
    summary_name,
    wal_name,
)
from replicator.repository.manifests import ManifestSummary
from replicator.repository.ranges import LARGEST, Held, parse_range, sign_range
from replicator.repository.summaries import parse_summaries, sign_summaries
from replicator.seal.digest import fingerprint
from replicator.seal.document import MOST_BYTES, canonical, sign_as_writer
from replicator.seal.keyring import Keyring
from tests.repositories import make_repository

SIZE = 16 * 2**20
SYSTEM = 7301234567890123456


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """Of a repository that this process may write."""
    return make_repository(tmp_path_factory.mktemp("ranges")).keyring


def some(numbers: list[int], seed: int = 1) -> list[Held]:
    """Segments with times as they come, some unknown."""
    chance = random.Random(seed)
    return [
        Held(number, chance.randbytes(8), chance.choice([0, 10**15 + number]), chance.choice([0, 10**15 + number + 9]))
        for number in sorted(numbers)
    ]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 400), min_size=1), st.sets(st.integers(0, 420)))
def test_a_range_says_what_it_was_given(keyring: Keyring, numbers: set[int], taken: set[int]) -> None:
    """Every segment, its times and its object's name come back, but for what retention took."""
    held = some(list(numbers))
    name, content = sign_range(keyring, "local", SYSTEM, 3, SIZE, held)
    assert parse_name(range_name(name)) == name
    span, store = parse_range(keyring, name, content)
    assert (store, list(span.held()), len(span)) == ("local", held, len(held))
    retired = Coverage.of((3, number * SIZE, (number + 1) * SIZE) for number in taken)
    left = [one for one in held if one.number not in taken]
    places = [Segment(3, one.number, SIZE) for one in left]
    assert list(span.objects(retired)) == [
        (place.name, wal_name(SYSTEM, place, one.mark.hex())) for place, one in zip(places, left, strict=True)
    ]
    assert Coverage.of(span.triples(retired)) == Coverage.of((3, place.start, place.end) for place in places)
    for one in held:
        assert span.times(one.number, one.mark.hex()) == (one.begun_us, one.sent_us)
        assert span.times(one.number, "f" * 16) is None
    assert span.times(max(numbers) + 1, held[-1].mark.hex()) is None


def test_the_largest_range_is_a_document(keyring: Keyring) -> None:
    """16,384 segments at any pace stay below what a document may have."""
    for pace in (30_000_000, 86_400_000_000):
        held = [
            Held(1 + at, bytes([at % 256] * 8), 10**15 + at * pace - 7, 10**15 + at * pace) for at in range(LARGEST)
        ]
        name, content = sign_range(keyring, "local", SYSTEM, 1, SIZE, held)
        assert len(content) <= MOST_BYTES
        assert parse_range(keyring, name, content)[0].times(LARGEST, held[-1].mark.hex()) is not None


def snapshots(count: int) -> list[ManifestSummary]:
    """Summaries of so many snapshots, one each minute."""
    found: list[ManifestSummary] = []
    for at in range(count):
        label = f"20260101T{at // 3600:02}{at // 60 % 60:02}{at % 60:02}Z"
        snapshot = Snapshot(label, SYSTEM, 1, Lsn(SIZE * (at + 1) + 40), Lsn(SIZE * (at + 1) + 900))
        parent = found[-1].snapshot.label if found else None
        found.append(ManifestSummary(snapshot, parent, 10**15 + at, 10**15 + at + 5, 9, 8, 7, at == 3, ()))
    return found


def test_summaries_say_what_they_were_given(keyring: Keyring) -> None:
    """All but the packs, which a manifest's own table tells."""
    given_ = snapshots(200)
    packs = (PackId("20260101T000000Z", 1, 2),)
    ((name, content),) = sign_summaries(keyring, SYSTEM, [replace(one, packs=packs) for one in given_])
    assert parse_name(summary_name(name)) == name
    assert list(parse_summaries(keyring, name, content)) == given_


def test_many_snapshots_make_several_summaries(keyring: Keyring) -> None:
    """What is too much for one document is in several; the same snapshots make the same bytes."""
    given_ = snapshots(6000)
    made = list(sign_summaries(keyring, SYSTEM, given_))
    assert len(made) > 1
    assert all(len(content) <= MOST_BYTES for _, content in made)
    assert [one for part in made for one in parse_summaries(keyring, *part)] == given_
    assert list(sign_summaries(keyring, SYSTEM, given_)) == made


def test_no_changed_byte_is_believed(keyring: Keyring) -> None:
    """One byte changed anywhere, or the end cut off, is an integrity error."""
    chance = random.Random(11)
    name, content = sign_range(keyring, "local", SYSTEM, 1, SIZE, some(list(range(5, 60))))
    ((other, summary),) = sign_summaries(keyring, SYSTEM, snapshots(5))
    for data, parse in ((content, lambda changed: parse_range(keyring, name, changed)),
                        (summary, lambda changed: parse_summaries(keyring, other, changed))):  # fmt: skip
        for _ in range(150):
            at = chance.randrange(len(data))
            with pytest.raises(IntegrityError):
                parse(data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :])
            with pytest.raises(IntegrityError):
                parse(data[:at])


@pytest.mark.parametrize(
    "change",
    [
        {"timeline": 2},
        {"segment_size": SIZE // 2},
        {"segment_size": 17},
        {"runs": []},
        {"runs": [["00000001" + "00000000" + "00000005", 3], ["00000001" + "00000000" + "00000007", 1]]},
        {"runs": [["00000002" + "00000000" + "00000005", 4]]},
        {"runs": [["00000001" + "00000000" + "00000005", -4]]},
        {"runs": 7},
        {"fingerprints": "00"},
        {"fingerprints": "zz" * 32},
        {"begun": [1]},
        {"sent": [2**63, 1, 1, 1]},
        {"sent": ["x"] * 4},
        {"store": None},
    ],
)
def test_a_signed_range_that_makes_no_sense_is_refused(keyring: Keyring, change: dict[str, Any]) -> None:
    """A signature does not save a body from being looked at."""
    body = {
        "store": "local", "segment_size": SIZE, "timeline": 1, "runs": [["00000001" + "00000000" + "00000005", 4]],
        "fingerprints": "ab" * 32, "begun": [1, 2, 3, 4], "sent": [1, 1, 1, 1],
    }  # fmt: skip

    def signed(body: dict[str, Any]) -> tuple[RangeName, bytes]:
        mark = fingerprint(keyring.repository_id, canonical(body))
        name = RangeName(SYSTEM, 1, Lsn(5 * SIZE), Lsn(9 * SIZE), mark)
        return name, sign_as_writer(keyring, "range", range_name(name), body)

    assert len(parse_range(keyring, *signed(body))[0]) == 4
    with pytest.raises(IntegrityError):
        parse_range(keyring, *signed({**body, **change}))


def test_another_repository_is_refused(keyring: Keyring, tmp_path: Path) -> None:
    """A range that another repository's writer signed is not believed."""
    other = make_repository(tmp_path).keyring
    with pytest.raises(IntegrityError):
        parse_range(keyring, *sign_range(other, "local", SYSTEM, 1, SIZE, some([5, 6])))


def test_names_parse_back_and_are_never_locked() -> None:
    """Ranges and summaries give way to larger ones, so no lock holds them."""
    for name in (
        range_name(RangeName(SYSTEM, 1, Lsn(SIZE), Lsn(2 * SIZE), "0" * 16)),
        summary_name(SummaryName(SYSTEM, "20260101T020000Z", "20260102T020000Z", "0" * 16)),
    ):
        assert parse_name(name) is not None
        assert not locked(name)
        assert parse_name(name + "x") is None
    assert parse_name(range_name(RangeName(SYSTEM, 1, Lsn(SIZE), Lsn(SIZE), "0" * 16))) is None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=12))
def test_a_smallest_cover_covers_all(parts: list[tuple[int, int]]) -> None:
    """What all places cover together, the chosen ones do, and none of them is needless."""
    places = [(low, low + length, str(index)) for index, (low, length) in enumerate(parts)]
    chosen = [place for place in places if place[2] in smallest_cover(places)]  # type: ignore[type-var]

    def covered(some: list[tuple[int, int, str]]) -> set[int]:
        return {at for low, high, _ in some for at in range(low, high)}

    assert covered(chosen) == covered(places)
    for place in chosen:
        assert covered([other for other in chosen if other is not place]) != covered(places)
