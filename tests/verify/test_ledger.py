"""When objects were last found well, as ranges of names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.verify.ledger import MOST_RANGES, Ledger, ledger_of, ledger_of_json

NAMES = st.lists(st.text("abc/", min_size=1, max_size=4), unique=True, min_size=1, max_size=30).map(sorted)


@given(NAMES, st.data())
def test_what_was_kept_is_read_back(names: list[str], data: st.DataObject) -> None:
    """Every object has its own moment again; one put later, or never looked at, has none."""
    moments = {name: data.draw(st.sampled_from([0, 5, 6])) for name in names}
    ledger = ledger_of_json(ledger_of(names, moments).as_json())
    for name in names:
        assert ledger.moment_of(name, 1) == moments[name]
        assert ledger.moment_of(name, 7) == 0


def test_a_run_over_all_is_one_range() -> None:
    """However many objects there are."""
    names = [f"{number:06d}" for number in range(100_000)]
    assert len(ledger_of(names, dict.fromkeys(names, 9)).ranges) == 1


def test_the_ledger_is_bounded() -> None:
    """The shortest ranges are let go of: their objects are looked at again."""
    names = [f"{number:06d}" for number in range(10 * MOST_RANGES)]
    ledger = ledger_of(names, {name: 1 + (number // 2) % 2 for number, name in enumerate(names)})
    assert len(ledger.ranges) == MOST_RANGES


def test_nonsense_is_left_out() -> None:
    """A record of another version, or of a liar with a writer's key, makes objects look older, never newer."""
    assert ledger_of_json([["b", "a", 1], ["c", "d"], 7, ["e", "f", 2], ["a", "b", 3]]).as_json() == [["e", "f", 2]]
    assert ledger_of_json({"a": 1}) == Ledger()
