#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Measure image downloads on this machine, on a real Ceph, Keystone and
# Glance: this tree's, the released Nova's, and rbd export alone, in turns.
# It measures, and never fails for a figure.
#
# usage: tools/bench.sh [--quick] [--group NAME] [--json FILE] [--chart PREFIX]
#
#   --quick         smaller images, fewer cases; under four minutes
#   --group NAME    only one group of cases; a wrong name lists them
#   --json FILE     write the results there
#   --chart PREFIX  draw PREFIX.png and PREFIX.svg
#
# For Debian 12, as root or with sudo.

set -eu
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

USAGE='usage: tools/bench.sh [--quick] [--group NAME] [--json FILE]'
USAGE="$USAGE [--chart PREFIX]"
expected=option
for word in "$@"; do
    case "$expected $word" in
        'option --quick') ;;
        'option --group' | 'option --json' | 'option --chart') expected=value ;;
        value*) expected=option ;;
        *) die "$USAGE" ;;
    esac
done
[ "$expected" = option ] || die "$USAGE"
START=$PWD
cd "$ROOT"

say 'Preparing this machine'
ensure_tools
ensure_packages test

say 'Building Nova from this tree; installing it, and the released one'
"$TOOLS_VENV/bin/tox" run --workdir "$ROOT/.tox" -qq --notest \
    -e functional,released-nova

say 'Measuring'
cd "$START"
as_root "$ROOT/.tox/functional/bin/python" -W ignore -P -m lab.bench \
    --released "$ROOT/.tox/released-nova/bin/python" "$@"
