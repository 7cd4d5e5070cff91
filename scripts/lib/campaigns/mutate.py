"""The mutation campaign: objects of a repository are flipped, cut, lengthened, deleted, swapped, replayed, renamed,
taken from another repository, forged and lied about. A verification must name each; a repair from the other store must
mend it; a restore must refuse, or bring back what the source held.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from replicator.core.progress import silent
from replicator.errors import ReplicatorError
from replicator.jobs import verify_job
from replicator.verify.examine import examine
from replicator.verify.job import verify
from scripts.lib.campaigns.mutate_ground import CLUSTER, STORES, Ground, Wrap, ground
from scripts.lib.campaigns.mutate_harm import Hand, Harm, combinations
from scripts.lib.campaigns.mutate_judge import Judge, Verdict
from scripts.lib.campaigns.mutate_lies import GHOSTS, LIES, draw_lie
from scripts.lib.campaigns.mutate_names import KINDS
from scripts.lib.campaigns.verdict import arguments, conclude

#: Of ten runs so many harm one store alone.
_ONE_STORE = 7
LEVELS = ("objects", "coverage")
#: Without these no store opens: a refusal names them well enough when every store is harmed.
_OPENS = ("root", "key", "recipient", "writer")


@dataclass
class Counts:
    """What the campaign found. `unanchored` and `harmless` are neither missed nor named."""

    lost: int = 0
    missed: int = 0
    unrepaired: int = 0
    unanchored: int = 0
    harmless: int = 0
    restored: int = 0
    refused: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_object: Counter[str] = field(default_factory=Counter)


class Campaign:
    """Runs over one ground. `say` is told every finding as it comes."""

    def __init__(self, held: Ground, seed: int, restore_every: int, say: Callable[[str], None]) -> None:
        self._ground, self._every, self._say = held, restore_every, say
        self._chance = random.Random(seed)
        held.renew()
        keyring = held.cluster().repository(cached=False).keyring
        self._hand = Hand(held, self._chance, keyring)
        self._judge = Judge(held)
        self._drawn: list[tuple[str, str]] = []
        self.counts = Counts()

    def all(self) -> list[tuple[str, str]]:
        """Every (mutation, kind) once, the lies among them, in an order that the seed draws."""
        found = combinations(self._hand, self._ground.foreign)
        found += [(lie, self._chance.choice(GHOSTS if lie == "ghost" else KINDS)) for lie in LIES for _ in range(2)]
        self._chance.shuffle(found)
        return found

    def run(self, turn: int) -> None:
        """One run: harm, verify, perhaps restore, repair."""
        if not self._drawn:
            self._drawn = self.all()
        self.harm(*self._drawn.pop(), restores=self._every > 0 and turn % self._every == 0)

    def harm(self, mutation: str, kind: str, *, restores: bool) -> None:
        """One mutation of one kind, judged."""
        self._ground.renew()
        harm, wrap = self._lied(mutation, kind) if mutation in LIES else (self._done(mutation, kind), None)
        self.counts.by_kind[mutation] += 1
        self.counts.by_object[kind] += 1
        self._verify(harm, wrap)
        if restores:
            self._restore(harm, wrap)
        if wrap is None and len(harm.stores) < len(STORES):
            self._repair(harm)

    def _done(self, mutation: str, kind: str) -> Harm:
        one = (self._chance.choice(STORES),)
        return self._hand.do(mutation, kind, one if self._chance.randrange(10) < _ONE_STORE else STORES)

    def _lied(self, lie: str, kind: str) -> tuple[Harm, Wrap]:
        store, name = self._chance.choice(STORES), self._chance.choice(self._hand.names(kind))
        told = draw_lie(self._chance, lie, store, name, self._ground.root(store) / name, CLUSTER)
        harm = Harm(f"lie ({lie})", kind, (store,))
        (harm.gone if lie in ("stale list", "says absent", "ghost") else harm.changed).add(told.about)
        return harm, told.wrap

    def _verify(self, harm: Harm, wrap: Wrap | None) -> None:
        try:
            result = verify(verify_job(self._ground.cluster(wrap)), LEVELS, silent)
        except ReplicatorError as error:
            if harm.kind not in _OPENS or harm.stores != STORES:
                self._missed(harm, f"verify could not run: {error.message}")
            return
        except Exception as error:  # noqa: BLE001 — a bug that a mutation found: told, and the campaign goes on
            self._missed(harm, f"verify failed: {error!r}")
            return
        verdict, about = self._judge.verdict(harm, result)
        if verdict is Verdict.MISSED:
            told = "; ".join(f"{found.code} {found.object} {found.text}" for level in result.levels.values()
                             for found in level.findings[:2])  # fmt: skip
            self._missed(harm, f"not named: {about}; said: {told or 'nothing'}")
        self.counts.unanchored += verdict is Verdict.UNANCHORED
        self.counts.harmless += verdict is Verdict.HARMLESS

    def _missed(self, harm: Harm, text: str) -> None:
        self.counts.missed += 1
        self._say(f"missed: {harm}: {text}")

    def _restore(self, harm: Harm, wrap: Wrap | None) -> None:
        store, moment = self._chance.choice(harm.stores), self._chance.choice(self._ground.moments)
        try:
            found = self._ground.restore(store, moment, wrap)
        except ReplicatorError:
            self.counts.refused += 1
            return
        except Exception as error:  # noqa: BLE001 — as above
            self._missed(harm, f"restore to {moment.lsn} failed: {error!r}")
            return
        self.counts.restored += 1
        if found != moment.dump:
            self.counts.lost += 1
            self._say(f"lost: {harm}: a restore from {store} to {moment.lsn} on timeline {moment.timeline} differs")

    def _repair(self, harm: Harm) -> None:
        built, store = self._ground.cluster(), harm.stores[0]
        name = ""
        try:
            verify(verify_job(built, repair=True), ("objects",), silent)
            repository = built.repository(cached=False)
            for name in sorted(self._judge.mendable(harm)):
                examine(repository, store, name, lambda _: None)
        except ReplicatorError as error:
            self.counts.unrepaired += 1
            self._say(f"unrepaired: {harm}: {name}: {error.message}")


def main() -> int:
    """Run the campaign; 1 if anything was lost or missed."""
    parser = arguments("mutate", __doc__, runs=100, what="mutations")
    parser.add_argument("--restore-every", type=int, default=10, metavar="N", help="restore in each Nth run; 0: never")
    options = parser.parse_args()
    began = time.monotonic()
    logging.getLogger("replicator").setLevel(logging.ERROR)  # what it ignores is warned of: thousands of lines
    with ground() as held:
        campaign = Campaign(held, options.seed, options.restore_every, lambda text: print(text, file=sys.stderr))
        for turn in range(1, options.runs + 1):
            campaign.run(turn)
    counts = campaign.counts
    return conclude(
        options,
        counts,
        began,
        unanchored=counts.unanchored,
        harmless=counts.harmless,
        restores={"equal": counts.restored - counts.lost, "refused": counts.refused},
        by_object=dict(sorted(counts.by_object.items())),
    )


if __name__ == "__main__":
    sys.exit(main())
