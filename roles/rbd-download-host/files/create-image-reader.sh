#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# create-image-reader.sh CLIENT POOL: make a Ceph client that can read the
# images in POOL, and nothing else, with a key that only root can read.
# Run it by the account that nova-compute has; that one needs sudo.

set -euo pipefail

if [ "$#" -ne 2 ] || [ -z "$1" ] || [ -z "$2" ]; then
    printf 'Usage: %s CLIENT POOL\n' "$0" >&2
    exit 2
fi
if [ "$(id -u)" -eq 0 ]; then
    printf '%s: root can read any key. Use the account of nova-compute.\n' \
        "$0" >&2
    exit 2
fi
client=$1
pool=$2
conf=/etc/ceph/ceph.conf
keyring=/etc/ceph/ceph.client.$client.keyring

# If a user other than root could change ceph.conf, rbd would run as the account
# of nova-compute, and could not read the key.
sudo chown root:root /etc/ceph "$conf"
sudo chmod 0755 /etc/ceph
sudo chmod 0644 "$conf"

# The file has its mode before it has the key, and its name when it is complete.
trap 'sudo rm -f "$keyring.new"' EXIT
sudo install -m 0600 -o root -g root /dev/null "$keyring.new"
sudo ceph --conf "$conf" --out-file "$keyring.new" \
    auth get-or-create "client.$client" \
    mon 'profile rbd' osd "profile rbd-read-only pool=$pool"
sudo mv "$keyring.new" "$keyring"

if [ -r "$keyring" ]; then
    printf '%s is readable by %s.\n' "$keyring" "$(id -un)" >&2
    exit 1
fi
# As the privsep daemon will.
sudo rbd --conf "$conf" --id "$client" --pool "$pool" ls > /dev/null
printf 'client.%s reads the pool %s, by root only.\n' "$client" "$pool"
