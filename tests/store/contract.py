"""The contract of every store: one suite, run against each driver and wrapper (test_contract.py)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replicator.errors import AlreadyExists, ObjectAbsent, UsageError
from replicator.store import Store

BIG = bytes(range(256)) * 4096 * 18 + b"end"
ODD_NAMES = (
    "",
    "/a",
    "a/",
    "a//b",
    "../a",
    "a/../b",
    "a/./b",
    ".",
    "..",
    "a b",
    "a\n",
    "ä",
    "a\0b",
    ".tmp-a",
    "x" * 2000,
)


class StoreContract:
    """What PLAN and protocol promise. A subclass gives the fixture `store`: empty, and its own."""

    def names(self, store: Store, prefix: str = "", after: str = "") -> list[str]:
        """The names of a listing."""
        return [info.name for info in store.list(prefix, after=after)]

    def stream(self, store: Store, name: str, body: bytes) -> None:
        """Create an object by a writer."""
        with store.writer(name) as writer:
            writer.write(body)
            writer.commit()

    @pytest.mark.parametrize("body", [b"", b"x", b"\0" * 100_000], ids=["empty", "one", "some"])
    def test_put_and_get(self, store: Store, body: bytes) -> None:
        """What is put is read back, whole."""
        store.put("a/b/c", body)
        assert store.get("a/b/c") == body
        assert store.stat("a/b/c").size == len(body)

    def test_put_of_a_file(self, store: Store, tmp_path: Path) -> None:
        """A file's bytes are put, small and in parts."""
        for name, body in (("small", b"small"), ("empty", b""), ("big", BIG)):
            path = tmp_path / name
            path.write_bytes(body)
            store.put(f"files/{name}", path)
            assert store.get(f"files/{name}") == body

    def test_put_of_many_bytes(self, store: Store) -> None:
        """More bytes than one request carries arrive whole."""
        store.put("big", BIG)
        assert store.get("big") == BIG

    def test_never_overwrites(self, store: Store, tmp_path: Path) -> None:
        """A second put under a name is refused, whatever its content, and changes nothing."""
        path = tmp_path / "body"
        path.write_bytes(b"second")
        store.put("a", b"first")
        for body in (b"second", b"first", path):
            with pytest.raises(AlreadyExists):
                store.put("a", body)
        with pytest.raises(AlreadyExists):
            self.stream(store, "a", BIG)
        assert store.get("a") == b"first"

    def test_absent(self, store: Store) -> None:
        """What is not there is said to be absent by every way of reading."""
        store.put("a/b", b"x")
        for name in ("b", "a", "a/b/c", "a/bc"):
            with pytest.raises(ObjectAbsent):
                store.get(name)
            with pytest.raises(ObjectAbsent):
                store.get(name, 1, 2)
            with pytest.raises(ObjectAbsent):
                store.get(name, 0, 0)
            with pytest.raises(ObjectAbsent):
                store.get_tail(name, 5)
            with pytest.raises(ObjectAbsent):
                store.stat(name)

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (3, 4, b"3456"),
            (0, 1, b"0"),
            (9, 1, b"9"),
            (8, 100, b"89"),
            (10, 5, b""),
            (10, None, b""),
            (50, 5, b""),
            (3, 0, b""),
        ],
    )
    def test_ranges(self, store: Store, offset: int, length: int | None, expected: bytes) -> None:
        """A range is cut at the object's end, and never holds other bytes."""
        store.put("a", b"0123456789")
        assert store.get("a", offset, length) == expected

    @pytest.mark.parametrize(("length", "expected"), [(3, b"789"), (10, b"0123456789"), (99, b"0123456789"), (0, b"")])
    def test_tail(self, store: Store, length: int, expected: bytes) -> None:
        """The tail comes with the object's size, also when the object is shorter."""
        store.put("a", b"0123456789")
        assert store.get_tail("a", length) == (expected, 10)

    def test_tail_of_an_empty_object(self, store: Store) -> None:
        """An empty object has an empty tail."""
        store.put("a", b"")
        assert store.get_tail("a", 100) == (b"", 0)
        assert store.get("a", 0, 10) == b""

    def test_stat(self, store: Store) -> None:
        """Facts: the name as asked, the size, an aware time of about now."""
        store.put("a/b", b"12345")
        info = store.stat("a/b")
        assert (info.name, info.size) == ("a/b", 5)
        assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=5)

    def test_list_order(self, store: Store) -> None:
        """Listings ascend by the names' bytes, across folders."""
        for name in ("b", "a/b", "a-b", "a.c", "a/a/z", "a0", "a/a-a", "B", "a_"):
            store.put(name, b"x")
        assert self.names(store) == ["B", "a-b", "a.c", "a/a-a", "a/a/z", "a/b", "a0", "a_", "b"]

    def test_list_prefix(self, store: Store) -> None:
        """A prefix is the beginning of a name, with or without a slash at its end."""
        for name in ("wal/1/a", "wal/1/b", "wal/10/c", "wal-2/d", "x"):
            store.put(name, b"12")
        assert self.names(store, "wal/1/") == ["wal/1/a", "wal/1/b"]
        assert self.names(store, "wal/1") == ["wal/1/a", "wal/1/b", "wal/10/c"]
        assert self.names(store, "wal") == ["wal-2/d", "wal/1/a", "wal/1/b", "wal/10/c"]
        assert self.names(store, "none/") == []
        assert self.names(store, "x/") == []
        assert [info.size for info in store.list("wal/1/")] == [2, 2]

    def test_list_after(self, store: Store) -> None:
        """`after` leaves out what sorts up to and with it, whether it is there or not."""
        for name in ("p/a/1", "p/a/2", "p/b", "p/c/1", "q"):
            store.put(name, b"x")
        assert self.names(store, "p/", after="p/a/2") == ["p/b", "p/c/1"]
        assert self.names(store, "p/", after="p/a/15") == ["p/a/2", "p/b", "p/c/1"]
        assert self.names(store, "p/", after="p/a") == ["p/a/1", "p/a/2", "p/b", "p/c/1"]
        assert self.names(store, "", after="p/c/9") == ["q"]
        assert self.names(store, "p/", after="q") == []

    def test_writer(self, store: Store) -> None:
        """A stream of any cuts becomes one object."""
        with store.writer("a/stream") as writer:
            for start in range(0, len(BIG), 3_000_017):
                writer.write(memoryview(BIG)[start : start + 3_000_017])
            writer.commit()
        assert store.get("a/stream") == BIG

    @pytest.mark.parametrize("size", [0, 10, 8 << 20, 16 << 20])
    def test_writer_sizes(self, store: Store, size: int) -> None:
        """Nothing, little, and whole parts."""
        with store.writer("a") as writer:
            writer.write(BIG[:size])
            writer.commit()
        assert store.get("a") == BIG[:size]

    def test_writer_shows_nothing_early(self, store: Store) -> None:
        """Before commit there is nothing to see, and after an abort neither."""
        with store.writer("a/b") as writer:
            writer.write(BIG)
            assert self.names(store) == []
            with pytest.raises(ObjectAbsent):
                store.stat("a/b")
        assert self.names(store) == []
        writer.abort()
        store.put("a/b", b"now")
        assert store.get("a/b") == b"now"

    def test_delete(self, store: Store) -> None:
        """A deleted object is absent; deleting twice is well; its neighbours stay."""
        store.put("a/b", b"x")
        store.put("a/c", b"y")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/there")
        with pytest.raises(ObjectAbsent):
            store.get("a/b")
        assert self.names(store) == ["a/c"]
        store.delete("a/c")
        store.put("a/b", b"again")
        assert store.get("a/b") == b"again"

    def test_names_are_checked(self, store: Store) -> None:
        """A name that could leave the store is refused by every method."""
        for name in ODD_NAMES:
            with pytest.raises(UsageError):
                store.put(name, b"x")
            with pytest.raises(UsageError):
                store.get(name)
            with pytest.raises(UsageError):
                store.get_tail(name, 1)
            with pytest.raises(UsageError):
                store.stat(name)
            with pytest.raises(UsageError):
                store.delete(name)
            with pytest.raises(UsageError):
                store.writer(name)
        with pytest.raises(UsageError):
            list(store.list("../"))

    def test_threads(self, store: Store) -> None:
        """Eight threads put, read and list at once."""

        def work(number: int) -> None:
            for index in range(4):
                name = f"t/{number}/{index}"
                store.put(name, name.encode())
                assert store.get(name) == name.encode()
                assert name in self.names(store, f"t/{number}/")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8), timeout=60))
        assert len(self.names(store, "t/")) == 32
