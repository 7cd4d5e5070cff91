"""Writers that never stop, and the ledger of what the primary acknowledged to them."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

BIDANG = ("pendidikan", "penelitian", "pengabdian", "penunjang")

#: Tables in the ledger, and the expression whose MD5 was noted for each row.
DIGESTS = {
    "rencana_kerja": "dosen_id::text",
    "kegiatan": "uraian",
    "persetujuan": "catatan",
    "evaluasi_diri": "nidn",
    "realisasi": "uraian",
    "bukti": "encode(sha256(isi), 'hex')",
    "penilaian": "asesor",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One committed row: acknowledged at `time` (this host's clock, which is the primary's too)."""

    time: float
    table: str
    id: int
    digest: str


class Ledger:
    """Rows in the order of their acknowledgement."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[Row] = []

    def add(self, rows: list[tuple[str, int, str]]) -> None:
        """Note rows of a transaction whose COMMIT has just returned."""
        now = time.time()
        with self._lock:
            self._rows += [Row(now, table, key, digest) for table, key, digest in rows]

    def until(self, moment: float) -> list[Row]:
        """Rows acknowledged at or before a moment."""
        with self._lock:
            return [row for row in self._rows if row.time <= moment]


def md5(text: str) -> str:
    """As PostgreSQL's md5()."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def frk_transaction(connection: psycopg.Connection, chance: random.Random) -> list[tuple[str, int, str]]:
    """A lecturer plans: a work plan, its activities, sometimes an assessor's decision."""
    rows: list[tuple[str, int, str]] = []
    with connection.transaction():
        dosen = chance.randint(1, 400)
        plan = insert(connection, "rencana_kerja", "dosen_id, semester_id, status", (dosen, 14, "diajukan"))
        rows.append(("rencana_kerja", plan, md5(str(dosen))))
        for bidang in chance.sample(BIDANG, chance.randint(2, 4)):
            text = f"Kegiatan {bidang} {chance.getrandbits(64):016x}"
            key = insert(
                connection, "kegiatan", "rencana_id, bidang, uraian, sks", (plan, bidang, text, chance.randint(1, 6))
            )
            rows.append(("kegiatan", key, md5(text)))
        if chance.random() < 0.5:
            note = f"catatan {chance.getrandbits(32):08x}"
            values = (plan, chance.randint(1, 400), "disetujui", note)
            rows.append(
                (
                    "persetujuan",
                    insert(connection, "persetujuan", "rencana_id, asesor_id, keputusan, catatan", values),
                    md5(note),
                )
            )
    return rows


def fed_transaction(connection: psycopg.Connection, chance: random.Random) -> list[tuple[str, int, str]]:
    """A lecturer reports: an evaluation, what was realised, a file as evidence, sometimes a verdict."""
    rows: list[tuple[str, int, str]] = []
    with connection.transaction():
        nidn = f"{chance.randint(1, 400):010d}"
        evaluation = insert(connection, "evaluasi_diri", "nidn, semester", (nidn, "S14"))
        rows.append(("evaluasi_diri", evaluation, md5(nidn)))
        text = f"Realisasi {chance.getrandbits(64):016x}"
        done = insert(
            connection, "realisasi", "evaluasi_id, bidang, uraian, sks", (evaluation, chance.choice(BIDANG), text, 2)
        )
        rows.append(("realisasi", done, md5(text)))
        content = chance.randbytes(chance.randint(1_000, 24_000))
        proof = insert(connection, "bukti", "realisasi_id, nama_berkas, isi", (done, f"bukti-{done}.pdf", content))
        rows.append(("bukti", proof, md5(hashlib.sha256(content).hexdigest())))
    if chance.random() < 0.5:
        assessor = f"Asesor {chance.getrandbits(32):08x}"
        try:
            with connection.transaction():
                verdict = insert(
                    connection,
                    "penilaian",
                    "evaluasi_id, asesor, skor, putusan",
                    (evaluation, assessor, 88, "memenuhi"),
                )
            rows.append(("penilaian", verdict, md5(assessor)))
        except psycopg.errors.UndefinedTable:
            pass  # somebody dropped it: that is what the demo is about
    return rows


def insert(connection: psycopg.Connection, table: str, columns: str, values: tuple[object, ...]) -> int:
    """Insert one row; its id."""
    marks = ", ".join(["%s"] * len(values))
    row = connection.execute(
        f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING id".encode(), values
    ).fetchone()
    assert row is not None
    return int(row[0])


class Writer(threading.Thread):
    """Writes until told to stop or cut off."""

    def __init__(
        self,
        conninfo: str,
        work: Callable[[psycopg.Connection, random.Random], list[tuple[str, int, str]]],
        ledger: Ledger,
        seed: int,
        pause: float,
    ) -> None:
        super().__init__(name=f"writer-{seed}")
        self._conninfo, self._work, self._ledger = conninfo, work, ledger
        self._chance, self._pause = random.Random(seed), pause
        self._stopping = threading.Event()

    def run(self) -> None:
        """One transaction after another; ends quietly when cut off."""
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                while not self._stopping.wait(self._pause):
                    self._ledger.add(self._work(connection, self._chance))
        except psycopg.OperationalError:
            pass  # cut off

    def stop(self) -> None:
        """Ask to stop after the transaction at hand."""
        self._stopping.set()


def missing(conninfo: str, rows: list[Row]) -> set[tuple[str, int]]:
    """The ledger's rows that a database lacks, or has with another content."""
    lost: set[tuple[str, int]] = set()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for table in {row.table for row in rows}:
            wanted = {row.id: row.digest for row in rows if row.table == table}
            try:
                found: dict[int, str] = dict(
                    connection.execute(f"SELECT id, md5({DIGESTS[table]}) FROM {table}".encode()).fetchall()
                )
            except psycopg.errors.UndefinedTable:
                found = {}
            lost |= {(table, key) for key, digest in wanted.items() if found.get(key) != digest}
    return lost
