#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Install what is missing and run every check and test of this tree. The last
# line says how many passed, failed and were skipped, all runs together.
# For Debian 12, as root or with sudo.

set -u
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1

NOVA_TEST_COUNTS=$(mktemp -d) || exit 1
export NOVA_TEST_COUNTS
trap 'rm -rf "$NOVA_TEST_COUNTS"' EXIT

# run_tox ENVIRONMENT FOLDER [COMMAND...]: leave the outcome in
# ENVIRONMENT.tox, the environment itself in FOLDER; COMMAND runs tox.
run_tox() {
    local environment=$1 folder=$2
    shift 2
    "$@" "$TOOLS_VENV/bin/tox" run --workdir "$folder" \
        --result-json "$NOVA_TEST_COUNTS/$environment.tox" -e "$environment"
}

say 'Preparing this machine'
# In a subshell, so that the last line is the count whatever happens.
if ! (ensure_tools); then
    printf '0 passed, 1 failed, 0 skipped\n'
    exit 1
fi
(ensure_packages test) || say 'Going on: what needs a missing package fails.'

say 'Style, types, unit tests, released tests, packaging'
run_tox checks "$ROOT/.tox"

say 'Tests on a real Ceph, Keystone, Glance and Barbican'
if [ "$(id -u)" -eq 0 ]; then
    run_tox functional "$ROOT/.tox"
else
    run_tox functional "$ROOT/.tox/root" as_root
    # What root leaves must not be in the way of the next run.
    as_root chown -R "$(id -u):$(id -g)" "$ROOT/.tox/root"
fi

say 'Sum'
"$TOOLS_VENV/bin/python" tools/suites/report.py "$NOVA_TEST_COUNTS" \
    "checks=$NOVA_TEST_COUNTS/checks.tox" \
    "functional=$NOVA_TEST_COUNTS/functional.tox"
