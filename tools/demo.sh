#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Show what this is about, on this machine and for real: install what is
# missing, build Nova, start Ceph, Keystone and Glance, store two images, and
# have a compute host fetch them. Nothing is left running.
#
# usage: tools/demo.sh [--keep]
#
#   --keep   leave the lab up, and say how to use it
#
# For Debian 12, as root or with sudo.

set -eu
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

KEEP=no
case "${1:-}" in
    '') ;;
    --keep) KEEP=yes ;;
    *) die "usage: tools/demo.sh [--keep]" ;;
esac
cd "$ROOT"

VENV=$ROOT/.tox/functional
READY=no
in_lab() {
    as_root "$VENV/bin/python" -W ignore -P -m "$@"
}

finish() {
    local status=$?
    if [ "$READY" = yes ] && { [ "$KEEP" = no ] || [ "$status" -ne 0 ]; }; then
        in_lab lab down || true
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say 'Preparing this machine'
ensure_tools
ensure_packages test

say 'Building Nova from this tree, and installing it'
"$TOOLS_VENV/bin/tox" run --workdir "$ROOT/.tox" -qq --notest -e functional
READY=yes
"$VENV/bin/pip" list 2>/dev/null | grep '^nova '

say 'Starting Ceph, Keystone and Glance'
in_lab lab up

say 'Images for a compute host'
in_lab lab.demo

if [ "$KEEP" = yes ]; then
    say 'The lab stays up'
    in_lab lab status
fi
