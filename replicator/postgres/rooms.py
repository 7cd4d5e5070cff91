"""Memory for what is read, taken again as soon as nobody looks at it any more.

New memory costs a page fault and the kernel's zeros for each page, and a bytearray its own zeros besides; what was used
a moment ago may still be in the processor's cache. Python itself says when nobody looks: a bytearray with views refuses
to change its size.
"""

from __future__ import annotations

from collections import deque
from threading import Lock


class Rooms:
    """Pieces of `size` bytes at most; as many are kept as were looked at once. Safe in several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._made: deque[bytearray] = deque()
        self._lock = Lock()

    def take(self, size: int) -> memoryview:
        """So many bytes, with anything in them; the caller's, and theirs who got a view of it, until all let go."""
        if size * 2 <= self._size:
            return memoryview(bytearray(size))  # whoever keeps many small ones shall not keep a whole room for each
        if size > self._size:
            return memoryview(bytearray(size))
        with self._lock:
            for _ in range(len(self._made)):
                room = self._made[0]
                self._made.rotate(-1)
                try:
                    room.append(room.pop())  # refused while there is a view
                except BufferError:
                    continue
                return memoryview(room)[:size]
            room = bytearray(self._size)
            self._made.append(room)
            return memoryview(room)[:size]
