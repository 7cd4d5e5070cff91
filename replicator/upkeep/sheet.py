"""The recovery sheet: one page that, with any store of the repository, is enough to restore. Pure text.

It is printed once, by `init`, and kept offline: whoever holds it can read the backups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from replicator.errors import HostLacks, KeysError, UsageError
from replicator.repository.repository import Secrets
from replicator.seal.signature import SEALING_SECRET, SIGNING, SIGNING_SECRET, parse_key

_TITLE = "replicator recovery sheet"


@dataclass(frozen=True, slots=True)
class SheetStore:
    """Where a store was when the sheet was made; `endpoint` and `region` empty for a directory or AWS."""

    name: str
    url: str
    endpoint: str = ""
    region: str = ""


@dataclass(frozen=True)
class Sheet:
    """A sheet's facts. `secret` is `x25519-secret:…`, the key of a recipient of its own, or with encryption off
    `ed25519-secret:…`, the root itself.
    """

    cluster: str
    repository: str
    root: str
    made: str
    stores: tuple[SheetStore, ...]
    secret: str = field(repr=False)

    def secrets(self) -> Secrets:
        """What it opens with. Raises KeysError."""
        if self.secret.startswith(SIGNING_SECRET):
            return Secrets(root_seed=parse_key(SIGNING_SECRET, self.secret))
        return Secrets(identities=(parse_key(SEALING_SECRET, self.secret),))


def format_sheet(sheet: Sheet) -> str:
    """The page."""
    lines = [
        _TITLE,
        "=" * len(_TITLE),
        "",
        f"Keep this page offline: whoever holds it can read every backup of {sheet.cluster}.",
        "It is printed once. With it and any of the stores a cluster can be restored on a new host.",
        "",
        f"cluster:    {sheet.cluster}",
        f"repository: {sheet.repository}",
        f"root:       {sheet.root}",
        f"made:       {sheet.made}",
    ]
    for store in sheet.stores:
        extra = "".join(
            f" {key}={value}" for key, value in (("endpoint", store.endpoint), ("region", store.region)) if value
        )
        lines.append(f"store:      {store.name} {store.url}{extra}")
    return "\n".join(
        [
            *lines,
            f"secret:     {sheet.secret}",
            "",
            "To restore without a policy:",
            f"    replicator restore {sheet.cluster} --sheet THIS-FILE --store URL --into DIRECTORY --latest",
            "",
        ]
    )


def parse_sheet(text: str, place: str) -> Sheet:
    """Read a sheet; `place` is named in errors. Raises UsageError, KeysError; never repeats the secret."""
    facts: dict[str, str] = {}
    stores: list[SheetStore] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon or line.startswith(" "):
            continue
        if key.strip() == "store":
            stores.append(_parse_store(value.split(), place))
        else:
            facts.setdefault(key.strip(), value.strip())
    missing = [key for key in ("cluster", "repository", "root", "secret") if not facts.get(key)]
    if _TITLE not in text or missing:
        raise UsageError(
            f"{place} is not a recovery sheet" + (f": no {', '.join(missing)}" if missing else ""),
            hint="Type the sheet's lines as they stand; the secret's line may not be broken.",
        )
    sheet = Sheet(
        facts["cluster"], facts["repository"], facts["root"], facts.get("made", ""), tuple(stores), facts["secret"]
    )
    try:
        parse_key(SIGNING, sheet.root)
        sheet.secrets()
    except KeysError as error:
        raise KeysError(f"{place}: {error.message}", hint="A character of the sheet was mistyped.") from error
    return sheet


def read_sheet(path: Path) -> Sheet:
    """Read the sheet in a file. Raises UsageError, KeysError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the recovery sheet {path} can't be read", hint="Give the file that `init --sheet` wrote."
        ) from error
    return parse_sheet(text, str(path))


def write_sheet(path: Path, text: str) -> None:
    """Write a sheet into a new file, 0600. Raises UsageError when something is there already."""
    try:
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text, "utf-8")
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already", hint="Give --sheet a new file; a sheet is never overwritten."
        ) from error
    except OSError as error:
        raise HostLacks(f"the recovery sheet can't be written to {path}: {error.strerror}") from error


def _parse_store(words: list[str], place: str) -> SheetStore:
    if len(words) < 2:
        raise UsageError(f"{place}: a store line without a URL")
    extra = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    return SheetStore(words[0], words[1], extra.get("endpoint", ""), extra.get("region", ""))
