"""`replicator key`: who can open a cluster's repository; recipients, writers and keys, added, removed and tried.

Owns the options and how results look. The work is upkeep's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, confirm, note, stopping
from replicator.cli.render import print_json, print_lines, print_table
from replicator.errors import CannotOpen, UntrustedRepository, UsageError

if TYPE_CHECKING:
    from replicator.compose import Cluster
    from replicator.repository.repository import Repository, Secrets
    from replicator.upkeep.keys import KeysJob, KeysResult
    from replicator.upkeep.keys_list import Given, Trial

_PATH = click.Path(path_type=Path)
_COLUMNS = ("what", "id", "created", "about", "opens", "stores")


@click.group()
def key() -> None:
    """Who can open: list, add, remove, rotate and test keys."""


def _opening(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to open with, beside the policy's own passphrase and identity."""
    verb = click.option("--sheet", type=_PATH, metavar="FILE", help="Open with this recovery sheet.")(verb)
    verb = click.option("--passphrase-env", metavar="NAME", help="Open with the passphrase in this variable.")(verb)
    verb = click.option("--passphrase-file", type=_PATH, metavar="FILE", help="Open with this passphrase.")(verb)
    return click.option("--identity", type=_PATH, metavar="FILE", help="Open with this private key.")(verb)


@key.command(name="list")
@click.argument("cluster")
@common_options()
def list_(ctx: Context, cluster: str) -> int:
    """List the keys, recipients, writers and removals of CLUSTER. Exits with 6 when a store did not answer."""
    from replicator.compose import compose
    from replicator.upkeep.keys_list import list_keys

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    listing = list_keys(compose(policy, daemon).repository(secrets=False, cached=False))
    if ctx.json:
        print_json(listing.as_json)
    else:
        print_table(ctx, _COLUMNS, _rows(listing.as_json))
    for name, error in listing.silent.items():
        note(ctx, f"store {name} did not answer: {error.message}")
    return 6 if listing.silent else 0


@key.command()
@click.argument("cluster")
@click.argument("recipient", required=False)
@click.option("--new-passphrase-file", type=_PATH, metavar="FILE", help="Add the passphrase in this file.")
@click.option("--new-passphrase-env", metavar="NAME", help="Add the passphrase in this environment variable.")
@click.option("--new-sheet", type=_PATH, metavar="FILE", help="Make another recovery sheet, written there.")
@click.option("--label", default="", metavar="TEXT", help="What people call it.")
@_opening
@common_options()
def add(ctx: Context, cluster: str, recipient: str | None, label: str, **options: Any) -> int:
    """Let RECIPIENT (x25519:…), a passphrase or a new recovery sheet open all of CLUSTER, what is sealed already too.

    Needs something that opens now. Repeatable: a store that was away gets it then (until that: exit 6).
    """
    from replicator.upkeep.keys import add_passphrase, add_recipient, add_sheet
    from replicator.upkeep.sheet import SheetStore, write_sheet

    names = ("new_passphrase_file", "new_passphrase_env", "new_sheet")
    if sum(given is not None for given in (recipient, *(options[name] for name in names))) != 1:
        raise UsageError(
            "not exactly one recipient was given",
            hint="Give x25519:…, --new-passphrase-file, --new-passphrase-env or --new-sheet.",
        )
    with stopping() as stop:
        built, job = _job(ctx, cluster, options, stop)
        if recipient is not None:
            result = add_recipient(job, _public(recipient), label or "recipient")
        elif options["new_sheet"] is not None:
            stores = tuple(
                SheetStore(store.name, store.url, store.endpoint or "", store.region or "")
                for store in built.policy.stores
            )
            result = add_sheet(job, stores, lambda text: write_sheet(options["new_sheet"], text))
        else:
            new = _passphrase(options["new_passphrase_file"], options["new_passphrase_env"])
            result = add_passphrase(job, new[0], label or "passphrase")
    return _told(ctx, result, "recipient")


@key.command()
@click.argument("cluster")
@click.argument("what", metavar="ID")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--without-sheet", is_flag=True, help="Even the last recovery sheet.")
@click.option("--discard-signed", is_flag=True, help="A writer although objects that it signed are there.")
@_opening
@common_options()
def remove(ctx: Context, cluster: str, what: str, yes: bool, **options: Any) -> int:
    """Remove a recipient, a writer or an old repository key of CLUSTER by its ID, for good and in every store.

    Needs something that opens and stays. Repeatable: a store that was away is done then (until that: exit 6).
    """
    from replicator.upkeep.keys_remove import Wish
    from replicator.upkeep.keys_remove import remove as remove_key

    confirm(f"Remove {what} from {cluster} for good?", yes=yes)
    wish = Wish(what, without_sheet=options["without_sheet"], discard_signed=options["discard_signed"])
    with stopping() as stop:
        result = remove_key(_job(ctx, cluster, options, stop)[1], wish)
    return _told(ctx, result, "removed")


@key.command()
@click.argument("cluster")
@_opening
@common_options()
def rotate(ctx: Context, cluster: str, **options: Any) -> int:
    """Make a new repository key for CLUSTER; what is sealed from now on is sealed to it.

    Everyone who opens now opens it too; nothing is rewritten. A running daemon takes it up at its next start.
    """
    from replicator.upkeep.keys import rotate as rotate_key

    with stopping() as stop:
        result = rotate_key(_job(ctx, cluster, options, stop)[1])
    code = _told(ctx, result, "key")
    note(ctx, "a running daemon seals to it from its next start on")
    return code


@key.command()
@click.argument("cluster")
@_opening
@common_options()
def test(ctx: Context, cluster: str, **options: Any) -> int:
    """Try what was given (sheet, identity, passphrase) in every store of CLUSTER: what it opens, by opening it.

    Exits with 7 when something given does not open everything, with 6 when a store did not answer.
    """
    from replicator.errors import ReplicatorError, StoreUnavailable
    from replicator.upkeep.keys_list import try_secrets

    with stopping() as stop:
        built = _built(ctx, cluster, stop)
        given = _given(built, options)
        if not given:
            raise CannotOpen(
                "there is nothing to try: the policy has neither passphrase nor identity",
                hint="Give --sheet, --identity, --passphrase-file or --passphrase-env.",
            )
        repository = built.repository(secrets=False, cached=False)
        _check_sheet(repository, options["sheet"])
        trials = try_secrets(repository, given)
    ok = all(trial.error is None for trial in trials)
    if ctx.json:
        print_json({"ok": ok, "trials": [trial.as_json() for trial in trials]})
    else:
        print_lines([_trial_line(trial) for trial in trials])
    errors: list[ReplicatorError] = [trial.error for trial in trials if trial.error is not None]
    if any(not isinstance(error, StoreUnavailable) for error in errors):
        return 4 if any(error.exit_code == 4 for error in errors) else 7
    return 6 if errors else 0


def _built(ctx: Context, cluster: str, stop: Any) -> Cluster:
    from replicator.compose import compose

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    return compose(policy, daemon, interrupt=stop)


def _job(ctx: Context, cluster: str, options: dict[str, Any], stop: Any) -> tuple[Cluster, KeysJob]:
    from replicator.upkeep.keys import KeysJob

    built = _built(ctx, cluster, stop)
    repository = built.repository(secrets=False, cached=False)
    _check_sheet(repository, options["sheet"])
    return built, KeysJob(repository, _together([given.secrets for given in _given(built, options)]), built.clock.now())


def _given(built: Cluster, options: dict[str, Any]) -> list[Given]:
    """Every secret that was given, by what people call it: the policy's own first."""
    from replicator.repository.repository import Secrets
    from replicator.upkeep.keys_list import Given
    from replicator.upkeep.sheet import read_sheet

    held = built.secrets(identity=options["identity"])
    found: list[Given] = []
    if held.passphrases:
        found.append(Given("the policy's passphrase", Secrets(passphrases=held.passphrases)))
    if held.identities or held.root_seed is not None:
        name = f"the identity {options['identity'] or 'of the policy'}"
        found.append(Given(name, Secrets(identities=held.identities, root_seed=held.root_seed)))
    more = _passphrase(options["passphrase_file"], options["passphrase_env"])
    if more:
        found.append(Given("the passphrase given", Secrets(passphrases=more)))
    if options["sheet"] is not None:
        found.append(Given(f"the sheet {options['sheet']}", read_sheet(options["sheet"]).secrets()))
    return found


def _passphrase(file: Path | None, env: str | None) -> tuple[bytes, ...]:
    from replicator.policy import SecretRef, resolve_secret

    references = [SecretRef(file=file.absolute())] if file is not None else []
    references += [SecretRef(env=env)] if env is not None else []
    return tuple(resolve_secret(reference, what="the passphrase") for reference in references)


def _together(secrets: list[Secrets]) -> Secrets:
    from replicator.repository.repository import Secrets

    return Secrets(
        tuple(passphrase for held in secrets for passphrase in held.passphrases),
        tuple(identity for held in secrets for identity in held.identities),
        next((held.root_seed for held in secrets if held.root_seed is not None), None),
    )


def _check_sheet(repository: Repository, path: Path | None) -> None:
    """A sheet must be this repository's. Raises UntrustedRepository."""
    from replicator.seal.signature import SIGNING, key_text
    from replicator.upkeep.sheet import read_sheet

    sheet = read_sheet(path) if path is not None else None
    if sheet is None:
        return
    if (sheet.root, sheet.repository) != (key_text(SIGNING, repository.keyring.root), repository.id.hex()):
        raise UntrustedRepository(
            f"the sheet {path} is of another repository, {sheet.repository} of {sheet.cluster}",
            hint="Give the sheet of this repository; if this is it, someone replaced the repository.",
        )


def _public(text: str) -> bytes:
    from replicator.errors import KeysError
    from replicator.seal.signature import SEALING, parse_key

    try:
        return parse_key(SEALING, text)
    except KeysError as error:
        raise UsageError(
            f"the recipient is no public key: {error.message}", hint="It is written x25519: and 43 characters."
        ) from error


def _told(ctx: Context, result: KeysResult, word: str) -> int:
    if ctx.json:
        print_json(result.as_json())
    else:
        print_lines([f"{word} {name}" for name in result.ids])
        print_lines([f"store {name}: {state}" for name, state in result.stores.items()])
    for name, error in result.errors.items():
        note(ctx, f"store {name}: {error.message}; run the same command again when it is well")
    return result.exit_code


def _trial_line(trial: Trial) -> str:
    if trial.error is not None:
        return f"{trial.secret}, store {trial.store}: {trial.error.message}"
    keys = f"opens {len(trial.keys)} keys" if len(trial.keys) != 1 else f"opens the key {trial.keys[0]}"
    proof = f"{len(trial.opened)} objects were opened" if trial.opened else "there is nothing yet to open"
    return f"{trial.secret}, store {trial.store}: {keys}; {proof}"


def _rows(value: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for row in value["keys"]:
        about = "current: sealed to now" if row["current"] else "older: opened, not sealed to"
        rows.append(("key", row["id"], row["created"], about, None, row["stores"]))
    for row in value["recipients"]:
        rows.append(("recipient", row["id"], row["created"], row["label"], row["keys"], row["stores"]))
    for row in value["writers"]:
        rows.append(("writer", row["id"], row["created"], row["host"], None, row["stores"]))
    for row in value["removed"]:
        kind, _, name = row["what"].partition("/")
        rows.append(("removed", name, row["created"], kind.removesuffix("s"), None, row["stores"]))
    return rows
