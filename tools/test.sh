#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Install what is missing and run every check and test of this tree. The last
# line says how many passed, failed and were skipped, all runs together.
# For Debian 12, as root or with sudo.
#
# NOVA_RELEASE=VERSION has it done on another release of Nova than the usual
# one, less what would give the same again: style, documents, release notes.

set -u
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1

NOVA_TEST_COUNTS=$(mktemp -d) || exit 1
export NOVA_TEST_COUNTS
CHECKS=
# Each release has environments of its own.
WORK=$ROOT/.tox${NOVA_RELEASE:+/nova-$NOVA_RELEASE}
ENVIRONMENT=checks${NOVA_RELEASE:+-release}
trap 'stop_checks; rm -rf "$NOVA_TEST_COUNTS"' EXIT

# run_tox ENVIRONMENT FOLDER OPTION [COMMAND...]: leave the outcome in
# ENVIRONMENT.tox, the environment itself in FOLDER; COMMAND runs tox.
run_tox() {
    local environment=$1 folder=$2 option=$3
    shift 3
    "$@" "$TOOLS_VENV/bin/tox" run --workdir "$folder" "$option" \
        --result-json "$NOVA_TEST_COUNTS/$environment.tox" -e "$environment"
}

# run_functional OPTION: run it as root, which it needs.
run_functional() {
    if [ "$(id -u)" -eq 0 ]; then
        run_tox functional "$WORK" "$1"
        return
    fi
    run_tox functional "$WORK/root" "$1" as_root
    # What root leaves must not be in the way of the next run.
    as_root chown -R "$(id -u):$(id -g)" "$WORK/root"
}

# stop_checks: end them if they still run, and all that they have started.
stop_checks() {
    [ -z "$CHECKS" ] || kill -- "-$CHECKS" 2>/dev/null
}

say 'Preparing this machine'
# In a subshell, so that the last line is always the count.
if ! (ensure_tools); then
    printf '0 passed, 1 failed, 0 skipped\n'
    exit 1
fi
(ensure_packages test) || say 'Going on: what needs a missing package fails.'

say 'Building Nova from this tree, and installing what the tests need'
# One after the other: both build the same wheel.
run_tox "$ENVIRONMENT" "$WORK" --notest
run_functional --notest

say 'Tests on a real Ceph, Keystone, Glance and Barbican'
# They often wait, so all else runs beside them: in a process group of its
# own, which can be ended as a whole. They also measure times, so all else
# gets the processor time that they leave.
set -m
run_tox "$ENVIRONMENT" "$WORK" --skip-pkg-install nice \
    >"$NOVA_TEST_COUNTS/checks.log" 2>&1 </dev/null &
CHECKS=$!
set +m
run_functional --skip-pkg-install

say 'Style, types, documents, unit tests, released tests, packaging'
wait "$CHECKS"
CHECKS=
cat "$NOVA_TEST_COUNTS/checks.log"

say 'Sum'
"$TOOLS_VENV/bin/python" tools/suites/report.py "$NOVA_TEST_COUNTS" \
    "$ENVIRONMENT=$NOVA_TEST_COUNTS/$ENVIRONMENT.tox" \
    "functional=$NOVA_TEST_COUNTS/functional.tox"
