#!/usr/bin/env bash
# Builds a bootable Debian 12 disk with cloud-init, and says where it is. Kept in the tools folder: it takes minutes.
#
#   tests/compat/debian-image.sh            builds it where it is missing or this recipe has changed
#
# As root. From the mirror that apt is configured with, by debootstrap: the packages of Debian's own cloud image as
# far as they matter here (kernel, GRUB, cloud-init, netplan, growpart, sshd, QEMU's guest agent), which cannot be
# downloaded everywhere. One partition of 1.5 GiB, one ext4 with the label "root".
set -euo pipefail
tools="${INFALL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/infall/tools}"
packages=systemd-sysv,udev,dbus,kmod,iproute2,netplan.io,netbase,ca-certificates,procps,sudo
packages+=,python3-cffi-backend,cloud-init,cloud-guest-utils,fdisk,e2fsprogs,openssh-server,qemu-guest-agent
packages+=,initramfs-tools,linux-image-cloud-amd64,grub-pc-bin,grub2-common
bytes=$((1536 << 20))
partition=$((1 << 20)) # where GRUB's own sectors end and the file system begins

[ "$(id -u)" = 0 ] || { echo "error: only root can build an image; next: run it as root" >&2; exit 3; }
recipe=$(sha256sum "$0" | cut -c1-12)
image="$tools/cloud-image/debian-12-$recipe.raw"
[ -f "$image" ] && { echo "$image"; exit 0; }
mirror=$(apt-get indextargets --format '$(SITE)' 'Identifier: Packages' 'Codename: bookworm' | head -1)
[ -n "$mirror" ] || { echo "error: apt knows no mirror of bookworm; next: add one to /etc/apt/sources.list" >&2; exit 3; }

mkdir -p "$tools/cloud-image"
work=$(mktemp -d "$tools/cloud-image/building.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root="$work/root"

# In a mount namespace of its own: what debootstrap mounts goes with it.
build() {
    debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror"
    echo 'LABEL=root / ext4 defaults,errors=remount-ro 0 1' >"$root/etc/fstab"
    systemctl -q --root="$root" enable systemd-networkd
    rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/hostname
    : >"$root/etc/machine-id"
    # As in Debian's own image: nothing to be generated at the first boot.
    echo LANG=C.UTF-8 >"$root/etc/default/locale"
    echo 'locale: C.UTF-8' >"$root/etc/cloud/cloud.cfg.d/01_debian_cloud.cfg"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

    # GRUB without a device to probe: its first sector loads what lies from sector 1 on.
    mkdir -p "$root/boot/grub/i386-pc"
    cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/boot/grub/i386-pc/"
    local kernel
    kernel=$(basename "$root"/boot/vmlinuz-*)
    cat >"$root/boot/grub/grub.cfg" <<CFG
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry Debian {
    linux /boot/$kernel root=LABEL=root ro console=ttyS0,115200
    initrd /boot/initrd.img-${kernel#vmlinuz-}
}
CFG
    chroot "$root" grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /grub-core biosdisk part_msdos ext2 normal linux serial terminal
    mv "$root/grub-core" "$work/core"
    cp "$root/usr/lib/grub/i386-pc/boot.img" "$work/boot"
    [ "$(stat -c %s "$work/core")" -lt $((partition - 512)) ] || { echo "error: GRUB's core has no room before the partition" >&2; exit 1; }

    truncate -s "$bytes" "$work/disk"
    echo "start=$((partition / 512)), type=83, bootable" | sfdisk -q --label dos "$work/disk"
    mkfs.ext4 -q -L root -E offset="$partition" -d "$root" "$work/disk" $(((bytes - partition) / 1024))k
    dd if="$work/boot" of="$work/disk" bs=440 count=1 conv=notrunc status=none
    dd if="$work/core" of="$work/disk" bs=512 seek=1 conv=notrunc status=none
}
export -f build
export root work mirror packages bytes partition
echo "building $image from ${mirror%%//*}//… (about three minutes)" >&2
unshare --mount --propagation private bash -euo pipefail -c build >"$work.log" 2>&1 || {
    tail -20 "$work.log" >&2
    echo "error: the image is not built; the whole of it: $work.log" >&2
    exit 1
}
rm -f "$work.log"
mv "$work/disk" "$image"
echo "$image"
