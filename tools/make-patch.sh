#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Write this tree as a patch, nova-RELEASE-rbd.N.patch, for the source archive
# of the Nova release that setup.cfg pins. The patch applies with "patch -p1"
# and with "git apply".
#
# usage: tools/make-patch.sh [--series] [FOLDER]
#
#   --series  write several patches instead, in the order of a review; they
#             also apply with "git am"
#   FOLDER    folder of the output; dist/ in this tree by default
#
# NOVA_RELEASE_SDIST=FILE names a local source archive. Without it, pip
# downloads the archive, once.

set -eu
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

MODULE=novabuild.patch
if [ "${1:-}" = --series ]; then
    MODULE=novabuild.series
    shift
fi
case "$#:${1:-}" in
    0: | 1:[!-]*) ;;
    *) die 'usage: tools/make-patch.sh [--series] [FOLDER]' ;;
esac
FOLDER=$(realpath -m "${1:-$ROOT/dist}")
[ -z "${NOVA_RELEASE_SDIST:-}" ] ||
    NOVA_RELEASE_SDIST=$(realpath -m "$NOVA_RELEASE_SDIST")
cd "$ROOT"

ensure_tools
PYTHONPATH=$ROOT/tools "$TOOLS_VENV/bin/python" -m "$MODULE" "$FOLDER"
