#!/bin/sh
# Downloads the kernel that the meta package $WRENN_KERNEL_PACKAGE stands for into the current directory, and keeps
# a copy in $WRENN_PACKAGES. A directory of packages may lack the meta package: then the newest kernel is taken.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"

package=$(apt-cache depends "$WRENN_KERNEL_PACKAGE" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
if [ -z "$package" ]; then
    package=$(apt-cache search --names-only '^linux-image-[0-9].*-cloud-amd64$' | cut -d ' ' -f 1 | sort -V | tail -n 1)
fi
[ -n "$package" ] || exit 0

apt-get -o APT::Sandbox::User=root download "$package"
cp -n ./*.deb "$WRENN_PACKAGES"
