#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Write this tree as a patch, nova-RELEASE-rbd.N.patch, for the source archive
# of the Nova release that setup.cfg pins. It applies by "patch -p1" and by
# "git apply".
#
# usage: tools/make-patch.sh [FOLDER]
#
#   FOLDER   where to write it; without it, dist/ in this tree
#
# NOVA_RELEASE_SDIST=FILE names a source archive at hand. Without it, pip
# downloads the archive, once.

set -eu
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

case "$#:${1:-}" in
    0: | 1:[!-]*) ;;
    *) die 'usage: tools/make-patch.sh [FOLDER]' ;;
esac
FOLDER=$(realpath -m "${1:-$ROOT/dist}")
[ -z "${NOVA_RELEASE_SDIST:-}" ] ||
    NOVA_RELEASE_SDIST=$(realpath -m "$NOVA_RELEASE_SDIST")
cd "$ROOT"

ensure_tools
PYTHONPATH=$ROOT/tools "$TOOLS_VENV/bin/python" -m novabuild.patch "$FOLDER"
