"""The guard: the POSIX shell script that restore_command runs. Pure text.

PostgreSQL reads any exit code of 1 to 125 as the end of the archive, and would promote too early. So the guard says 1
only for what the plan does not name; whatever it can not tell becomes 126, which stops the server. It needs no Python
for a file that was prefetched.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

#: Seconds that the guard waits for a living prefetcher.
PATIENCE_S = 900

_SCRIPT = """#!/bin/sh
# Written by replicator. restore_command: file name and path, relative to the data directory.
dir={directory}
file=$1
path=$2

case $file in
*.history)
    # A history is asked for again and again, so it stays. One that is not here does not exist.
    [ -d "$dir/history" ] || exit 126
    [ -f "$dir/history/$file" ] || exit 1
    cp "$dir/history/$file" "$path" || exit 126
    exit 0
    ;;
esac

mv -f "$dir/ready/$file" "$path" 2>/dev/null && exit 0

grep -qxF -- "$file" "$dir/wanted" 2>/dev/null
case $? in
0) ;;
1) exit 1 ;;
*) exit 126 ;;
esac

# Handed over before, and kept by the server: it reads its own copy. An old segment that it only renamed to this name
# (before version 15 it recycles while it recovers) says another position in its first page.
if [ -f "pg_wal/$file" ]; then
    begins=$(od -An -tx8 -j8 -N8 "pg_wal/$file" 2>/dev/null | tr -d ' ')
    grep -qxF -- "$file $begins" "$dir/begins" 2>/dev/null && exit 1
fi

if [ -f "$dir/prefetching" ]; then
    : > "$dir/requests/$file" || exit 126
    end=$(($(date +%s) + {patience}))
    while [ -f "$dir/prefetching" ] && [ "$(date +%s)" -lt "$end" ]; do
        mv -f "$dir/ready/$file" "$path" 2>/dev/null && exit 0
        read -r pid < "$dir/prefetching" || break
        [ -d "/proc/$pid" ] || kill -0 "$pid" 2>/dev/null || break
        sleep 0.05 2>/dev/null || sleep 1
    done
    mv -f "$dir/ready/$file" "$path" 2>/dev/null && exit 0
fi

{command} wal get --recovery "$dir" "$file" "$path"
code=$?
[ "$code" -eq 0 ] && exit 0
[ "$code" -eq 44 ] && exit 1
[ "$code" -gt 128 ] && exit "$code"
exit 126
"""


def guard_script(directory: Path, command: Sequence[str], *, patience: int = PATIENCE_S) -> str:
    """The script for a recovery directory; `command` starts replicator, for a file that was not prefetched."""
    return _SCRIPT.format(
        directory=shlex.quote(str(directory)),
        patience=patience,
        command=" ".join(shlex.quote(word) for word in command),
    )
