"""Memory that is used again."""

from replicator.postgres.rooms import Rooms


def test_rooms_are_taken_again_once_nobody_looks() -> None:
    """Never while there is a view of any part; small ones always anew."""
    rooms = Rooms(100)
    first = rooms.take(100)
    first[:] = b"1" * 100
    part = first[90:]
    del first
    second = rooms.take(60)
    second[:] = b"2" * 60
    assert bytes(part) == b"1" * 10
    del part
    third = rooms.take(100)
    assert bytes(third) == b"1" * 100
    small, large = rooms.take(50), rooms.take(200)
    assert (bytes(small), bytes(large)) == (bytes(50), bytes(200))
    assert bytes(second) == b"2" * 60
