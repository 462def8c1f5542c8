#!/bin/sh
# Last touches to the minimal root: its users and a neutral identity. $1 is the new root.
set -eu
root=$1

chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash user
chroot "$root" useradd --create-home --uid 1001 --shell /bin/bash wrenn-user
for user in user wrenn-user; do
    echo "$user ALL=(ALL:ALL) NOPASSWD: ALL" > "$root/etc/sudoers.d/$user"
    chmod 0440 "$root/etc/sudoers.d/$user"
done

# The host's name and resolver were copied for the installation; a guest gets its own at boot.
echo capsule > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost capsule\n::1\tlocalhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
: > "$root/etc/resolv.conf"
# Empty means "not yet chosen" (machine-id(5)); two capsules must never share one.
: > "$root/etc/machine-id"
# Packages from a directory of the host cannot be fetched again inside a guest.
grep -ls '^URIs: copy:' "$root"/etc/apt/sources.list.d/*.sources | xargs -r rm
# ext4's own; an image built from a directory lacks it, and fsck would complain.
mkdir -p "$root/lost+found"
chmod 0700 "$root/lost+found"
