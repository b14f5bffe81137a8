#!/bin/busybox sh
# The first process of an emulated board that runs Debian from its second disk: loads what that disk takes and hands over.
# With the word `debian.prepare` on the kernel's command line it ends debootstrap(8)'s work instead.
set -eu
busybox=/bin/busybox
$busybox mkdir -p /proc /sys /dev /new
$busybox mount -t proc proc /proc
read -r uptime _ </proc/uptime
$busybox mount -t sysfs sys /sys
$busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
echo "first process, $uptime s after the kernel"
while read -r module; do $busybox insmod "/modules/$module"; done </modules/order
$busybox mount -t ext4 /dev/vdb /new
$busybox mount -o move /proc /new/proc
$busybox mount -o move /dev /new/dev
$busybox mount -o move /sys /new/sys
if $busybox grep -q debian.prepare /new/proc/cmdline; then
    $busybox chroot /new /debootstrap/debootstrap --second-stage
    $busybox chroot /new apt-get clean
    $busybox sync
    # The second stage has unmounted the one it was given.
    $busybox mount -t proc proc /proc
    $busybox mount -o remount,ro /new
    echo "Debian is prepared"
    while :; do $busybox sleep 60; done
fi
exec $busybox switch_root /new /sbin/init
