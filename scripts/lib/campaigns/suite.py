"""PostgreSQL's own regression suite, for scripts/regress: its files from Debian's source package, its driver from
Debian's development package.

Owns fetching and preparing them in `.venv/postgresql/regress-<version>`. Apt's own lists and sources stay as they are:
the source entries lie in a folder of ours. Only the development package is installed on the host, as root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replicator.postgres.binaries import Binaries

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".venv/postgresql"
_SOURCES = """Types: deb-src
URIs: http://deb.debian.org/debian
Suites: {name} {name}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://deb.debian.org/debian-security
Suites: {name}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


class NotHad(Exception):
    """The suite cannot be had or built here; the text says why."""


@dataclass(frozen=True, slots=True)
class Suite:
    """`inputs` holds sql/, expected/, data/ and the schedule; `libraries` what the tests load into the server."""

    driver: Path
    inputs: Path
    libraries: Path


def obtain(binaries: Binaries) -> Suite:
    """The suite of exactly this server's version. Raises NotHad."""
    driver = _driver(binaries)
    place = CACHE / f"regress-{binaries.version}"
    inputs = place / "regress"
    if not (inputs / "parallel_schedule").exists():
        _files(binaries, place)
    libraries = place / "lib"
    if not (libraries / "regress.so").exists():
        _build(binaries, inputs, libraries)
    return Suite(driver, inputs, libraries)


def _run(command: Sequence[object], cwd: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    except OSError as error:
        raise NotHad(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        told = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()
        raise NotHad(f"{command[0]} ended with {done.returncode}: {told[-1]}")
    return done.stdout


def _driver(binaries: Binaries) -> Path:
    makefiles = Path(_run([binaries.program("pg_config"), "--pgxs"], ROOT).strip()).parent
    driver = makefiles.parent / "test/regress/pg_regress"
    if not driver.exists() and os.geteuid() == 0 and shutil.which("apt-get"):
        package = f"postgresql-server-dev-{binaries.major}"
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], ROOT)
    if not driver.exists():
        raise NotHad(f"there is no pg_regress in {driver.parent}, and only root can install it")
    return driver


def _files(binaries: Binaries, place: Path) -> None:
    """Debian's source package of this version, of which only src/test/regress is kept."""
    if shutil.which("apt-get") is None:
        raise NotHad("the suite comes from Debian's source package, and there is no apt-get on this host")
    shutil.rmtree(place, ignore_errors=True)
    (place / "apt/lists/partial").mkdir(parents=True)
    for directory in (place, place / "apt", place / "apt/lists"):
        directory.chmod(0o755)
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    name = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    if name is None:
        raise NotHad("this host's release has no code name")
    sources = place / "apt/suite.sources"
    sources.write_text(_SOURCES.format(name=name[1]), encoding="utf-8")
    options = [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null"]
    options += [f"Dir::State::lists={place}/apt/lists", "APT::Sandbox::User=root"]
    apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
    _run([*apt, "update"], place)
    query = ["dpkg-query", "-W", "-f", "${source:Version}", f"postgresql-{binaries.major}"]
    version = _run(query, place)
    _run([*apt, "source", "--download-only", f"postgresql-{binaries.major}={version}"], place)
    archive = next(place.glob("*.orig.tar.*"))
    _unpack(archive, place)
    for left in (*place.glob("postgresql-*"), place / "apt"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _unpack(archive: Path, place: Path) -> None:
    fresh = place / "part"
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, inner = member.name.partition("/src/test/regress/")
            if inner and member.isreg() and ".." not in inner.split("/"):
                target = fresh / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    fresh.rename(place / "regress")


def _build(binaries: Binaries, inputs: Path, libraries: Path) -> None:
    """The suite's C functions, and the two of contrib that its triggers use."""
    config = binaries.program("pg_config")
    include = _run([config, "--includedir-server"], ROOT).strip()
    installed = Path(_run([config, "--pkglibdir"], ROOT).strip())
    libraries.mkdir(exist_ok=True)
    for name in ("refint.so", "autoinc.so"):
        shutil.copy(installed / name, libraries / name)
    part = libraries / "regress.part"
    options = ["-O2", "-fPIC", "-shared", "-fwrapv", "-fno-strict-aliasing", "-w", f"-I{include}"]
    _run(["cc", *options, "-o", part, inputs / "regress.c"], inputs)
    part.rename(libraries / "regress.so")
