# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the scripts in this folder share. Source it; it sets ROOT, the top of
# the tree, and TOOLS_VENV, where tox and bindep get installed.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS_VENV=$ROOT/.tox/.tools

say() {
    printf '\n== %s\n' "$*"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# as_root COMMAND...: run it as root, by sudo where that is needed. The
# settings of pip and the proxies come along.
as_root() {
    for_root "$@"
    "${FOR_ROOT[@]}"
}

# exec_as_root COMMAND...: the same in place of this script, so that signals
# sent to it reach the command.
exec_as_root() {
    for_root "$@"
    exec "${FOR_ROOT[@]}"
}

# for_root COMMAND...: leave in FOR_ROOT what runs it as root.
for_root() {
    FOR_ROOT=("$@")
    [ "$(id -u)" -ne 0 ] || return 0
    command -v sudo >/dev/null || die 'Run this as root, or install sudo.'
    local name kept=("PATH=$PATH")
    for name in $(compgen -e | grep -E '^(PIP|NOVA|DEBIAN)_|_proxy$'); do
        kept+=("$name=${!name}")
    done
    FOR_ROOT=(sudo env "${kept[@]}" "$@")
}

# install_packages NAME...: install Debian packages.
install_packages() {
    command -v apt-get >/dev/null ||
        die "Install these packages, which apt-get could: $*"
    say "Installing $*"
    export DEBIAN_FRONTEND=noninteractive
    # An old list may do; if not, the next step says so.
    as_root apt-get update -q || true
    as_root apt-get install -q -y --no-install-recommends "$@" ||
        die "apt-get could not install: $*"
}

# require_python: end here unless PYTHON, or else python3, will do.
require_python() {
    "${PYTHON:-python3}" -c \
        'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die 'Python 3.11 or newer is needed; PYTHON=PATH says where one is.'
}

# ensure_tools: have tox and bindep in TOOLS_VENV, in the versions that
# constraints.txt says.
ensure_tools() {
    require_python
    # Debian leaves it out of python3, and without it there is no bindep that
    # could ask for it.
    "${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null ||
        install_packages python3-venv
    # An interrupted run leaves an environment without pip.
    "$TOOLS_VENV/bin/python" -c 'import pip' 2>/dev/null ||
        "${PYTHON:-python3}" -m venv --clear "$TOOLS_VENV" ||
        die "Cannot make $TOOLS_VENV."
    "$TOOLS_VENV/bin/python" -m pip install -q --disable-pip-version-check \
        -c "$ROOT/constraints.txt" -r "$ROOT/tools/requirements.txt" ||
        die "Cannot install tox and bindep into $TOOLS_VENV."
}

# ensure_packages PROFILE...: install the packages of profiles of bindep.txt
# that are missing; call ensure_tools first.
ensure_packages() {
    local missing
    missing=$(cd "$ROOT" && "$TOOLS_VENV/bin/bindep" --brief "$@") && return
    [ -n "$missing" ] || die 'bindep failed.'
    # One name a line, and none with a space.
    # shellcheck disable=SC2086
    install_packages $missing
}

# without_services COMMAND...: Debian packages that it installs start none of
# their services. Where that is said already, it stays said.
without_services() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        # Also when the command ends all by die, or is interrupted.
        trap 'as_root rm -f "$policy"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' |
            as_root install -m 755 /dev/stdin "$policy" ||
            die "Cannot write $policy."
    fi
    "$@"
)
