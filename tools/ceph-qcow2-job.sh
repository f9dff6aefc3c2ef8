#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Boot instances on a real cloud on this machine, with local qcow2 disks and
# images that come straight from Ceph: Ceph, Keystone, Barbican, Glance,
# Placement, Neutron, MariaDB, RabbitMQ, libvirt and QEMU, and all of Nova,
# from this tree. Nothing is left running.
#
# usage: tools/ceph-qcow2-job.sh [OPTION...]
#
#   --help   the options there are; they are those of the job itself, which
#            is the Python package lab.job
#
# For Debian 12, as root or with sudo. The packages that it installs start
# nothing now; at the next boot of the machine they do as Debian has it.

set -eu
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
START=$PWD
cd "$ROOT"

say 'Preparing this machine'
ensure_tools
without_services ensure_packages test job

say 'Building Nova from this tree, and installing it'
"$TOOLS_VENV/bin/tox" run --workdir "$ROOT/.tox" -qq --notest -e ceph-qcow2

say 'Booting instances'
cd "$START"
exec_as_root "$ROOT/.tox/ceph-qcow2/bin/python" -W ignore -P \
    -m lab.job "$@"
