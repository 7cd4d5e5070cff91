"""`snapshot take` with packs of 256 KiB, so that a small cluster's snapshot has many: `kills_packs.py POLICIES
[--full]`. Progress and result are told in the lines of `--progress json`. Decides nothing else of a take.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from replicator.cli.common import Context, stopping
from replicator.cli.progress import progress_reporter
from replicator.cli.render import print_result
from replicator.compose import compose
from replicator.errors import ReplicatorError
from replicator.jobs import take_job
from replicator.policy import load_cluster
from replicator.snapshot.take import take

_PACK_SIZE = 2**18


def main() -> int:
    """As the verb does."""
    context = Context(progress="json")
    daemon, policy = load_cluster(Path(sys.argv[1]), "frk")
    try:
        with stopping() as stop, progress_reporter(context, "snapshot") as report:
            job = take_job(compose(policy, daemon, interrupt=stop), full="--full" in sys.argv)
            result = take(replace(job, pack_size=_PACK_SIZE), report, stop)
    except ReplicatorError as error:
        print(f"{type(error).__name__}: {error.message}", file=sys.stderr)
        return 1
    print_result(context, result.as_json())
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
