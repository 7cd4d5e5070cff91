"""What status says of the room that is left to our slot. Pure.

Owns the sentences and their hints, and no decision.
"""

from __future__ import annotations

from math import inf

from replicator.stream.governor import Bound, Level, Outlook
from replicator.stream.settings import Protect
from replicator.stream.statistics import Problem

_MENDED = "Look at the stores that are behind"
_MORE: dict[Bound | None, str] = {
    "server": "max_slot_wal_keep_size on the source gives more time where its disk has room.",
    "policy": "[stream] slot_limit gives more time where the source's disk has room.",
    "disk": "free space on the disk of the source's pg_wal gives more time.",
}
_ENDS: dict[Bound | None, str] = {
    "server": "then the source removes it",
    "policy": "that is [stream] slot_limit",
    "disk": "then its disk is full",
}


def room_problem(slot: str, outlook: Outlook) -> Problem | None:
    """A warning, and what is done at the higher levels; None while all is well."""
    if outlook.level is Level.WELL:
        return None
    does = {
        Level.WARN: "",
        Level.SHED: "; load is shed so that the stream catches up",
        Level.CHOOSE: "; the slot is given up now, so that the source's disk does not fill",
    }[outlook.level]
    return Problem(5, f"{_state(slot, outlook)}{does}", f"{_MENDED}; {_MORE[outlook.bound]}")


def choice_problem(slot: str, outlook: Outlook, *, protect: Protect) -> Problem:
    """The end is near, and the slot is kept all the same: the policy says so, or it is not ours to give up."""
    if protect == "primary":
        return Problem(
            5,
            f"{_state(slot, outlook)}; the slot is not given up, because `init` did not make it",
            f"{_MENDED}. To give its WAL up, stop the daemon, run `SELECT pg_drop_replication_slot('{slot}');` on the"
            " source, then `replicator init`, which makes a slot of our own.",
        )
    if outlook.bound == "server":
        size = max(1, (outlook.retained + max(0, outlook.left or 0)) >> 20)
        return Problem(
            5,
            f'{_state(slot, outlook)}; protect = "data" keeps the slot, but the server will not',
            f"If its disk has room, run `ALTER SYSTEM SET max_slot_wal_keep_size = '{2 * size}MB';` and"
            " `SELECT pg_reload_conf();` on the source, now.",
        )
    return Problem(
        5,
        f'{_state(slot, outlook)}; protect = "data" keeps the slot: the source\'s disk may fill, and the source stop',
        f'{_MENDED}, now. Writing `protect = "primary"` under [stream] gives the slot up, as a recorded gap.',
    )


def _state(slot: str, outlook: Outlook) -> str:
    left, seconds = outlook.left or 0, outlook.seconds
    lasts = "" if seconds is None or seconds == inf or left <= 0 else f", about {_time(seconds)} at this rate"
    room = f"{_size(left)} are left{lasts}" if left > 0 else "no more is allowed"
    return f"the source keeps {_size(outlook.retained)} of WAL for slot {slot}, and {room}: {_ENDS[outlook.bound]}"


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
