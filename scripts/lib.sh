# Shared by scripts/quickstart and scripts/test; sourced, not run.
# shellcheck shell=bash

# Python reads and writes UTF-8 whatever the locale says, and Ray writes no token into the home folder.
export PYTHONUTF8=1
export RAY_AUTH_MODE=disabled

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
python="$venv/bin/python"

say() { printf '>> %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Prints the first Python on the path that is new enough.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    local found
    found="$(python3 --version 2>&1)" || found="no python3"
    fail "autocompress needs Python 3.11 or newer, and this machine has $found on its path; install one and run this again"
}

# Creates .venv, or finishes one that was interrupted; one that works is used as it is.
ensure_venv() {
    if "$python" -c 'pass' >/dev/null 2>&1; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "$venv holds $("$python" --version); autocompress needs 3.11 or newer: move it away and run this again"
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
        return
    fi
    [[ ! -e $venv || -f $venv/pyvenv.cfg || -z $(ls -A "$venv") ]] ||
        fail "$venv is in the way and is no virtual environment; move it away and run this again"
    local base
    base="$(find_python)"
    "$base" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        fail "$base has no venv module; on Debian and Ubuntu: sudo apt install python3-venv"
    say "Creating .venv"
    "$base" -m venv --clear "$venv"
}

# What an installation depends on: pyproject.toml, where the clone lies, and the Python of .venv.
fingerprint() {
    "$python" -c 'import hashlib, pathlib, sys
print(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes() + f"{sys.argv[1]} {sys.version}".encode()).hexdigest())' \
        "$root/pyproject.toml"
}

pip_install() { "$python" -m pip install --quiet --quiet --disable-pip-version-check "$@"; }

# ensure_installed run|dev: installs once, and again when pyproject.toml has changed.
ensure_installed() {
    ensure_venv
    local wanted stamp
    wanted="$(fingerprint)"
    for stamp in dev "$1"; do
        [[ $(cat "$venv/.installed-$stamp" 2>/dev/null) != "$wanted" ]] || return 0
    done
    rm -f "$venv/.installed-run" "$venv/.installed-dev"
    local torch extra=""
    [[ $1 == run ]] || extra="[$1]"
    # PyTorch goes first and pinned: other packages ask for plain "torch", which may mean a CUDA build of several GB.
    torch="$("$python" -c 'import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print(next(entry for entry in project["dependencies"] if entry.startswith("torch")))' "$root/pyproject.toml")"
    say "Installing $torch into .venv (once; it is the largest package, and takes a few minutes)"
    pip_install "$torch"
    say "Installing autocompress$extra and what else it needs"
    (cd -- "$root" && pip_install -e ".$extra")
    # The stamp appears only when all of it went well, and in one step.
    printf '%s\n' "$wanted" >"$venv/.installed-$1.part"
    mv "$venv/.installed-$1.part" "$venv/.installed-$1"
}
