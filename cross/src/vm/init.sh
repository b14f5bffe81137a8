#!/bin/busybox sh
# PID 1 of the virtual machine: makes the host's root its own, its changes on a scratch disk, and runs /command there.
# Words on the kernel command line: punnet.modules=DIR (that the host's root has), punnet.visible=DIR,DIR (must be there though /tmp is new).
set -eu
busybox=/bin/busybox
$busybox mkdir -p /proc /sys /dev /host /disk /new
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
$busybox mount -t devtmpfs dev /dev
for word in $($busybox cat /proc/cmdline); do
    case $word in
    punnet.modules=*) modules=${word#*=} ;;
    punnet.visible=*) visible=${word#*=} ;;
    esac
done
while read -r module; do $busybox insmod "/modules/$module"; done </modules/order
$busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host
$busybox mount -t ext4 /dev/vda /disk
$busybox mkdir -p /disk/upper /disk/work /disk/tmp /disk/containers /disk/docker /disk/containerd
$busybox chmod 1777 /disk/tmp
$busybox mount -t overlay -o lowerdir=/host,upperdir=/disk/upper,workdir=/disk/work root /new
# On the disk itself: what puts an overlay of its own there. On a new file system: what the host's processes fill.
for pair in tmp:tmp var/lib/containers:containers var/lib/docker:docker var/lib/containerd:containerd; do
    $busybox mkdir -p "/new/${pair%:*}"
    $busybox mount -o bind "/disk/${pair#*:}" "/new/${pair%:*}"
done
for folder in $(echo "$visible" | $busybox tr , ' '); do
    [ -e "/new$folder" ] || { $busybox mkdir -p "/new$folder"; $busybox mount -o bind "/host$folder" "/new$folder"; }
done
$busybox mkdir -p /new/lib/modules
$busybox mount -o bind "/host$modules" /new/lib/modules
$busybox mount -t tmpfs -o mode=755 run /new/run
$busybox mount -o move /proc /new/proc
$busybox mount -o move /dev /new/dev
$busybox mount -o move /sys /new/sys
$busybox mkdir -p /new/dev/pts /new/dev/shm /new/dev/mqueue
$busybox mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
$busybox mount -t tmpfs -o mode=1777 shm /new/dev/shm
$busybox mount -t mqueue mqueue /new/dev/mqueue
$busybox mount -t securityfs security /new/sys/kernel/security
$busybox mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
for controller in $($busybox cat /new/sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/new/sys/fs/cgroup/cgroup.subtree_control
done
$busybox cp /command /new/run/command
$busybox hostname virtual
$busybox ip link set lo up
$busybox ip addr add 10.0.2.15/24 dev eth0
$busybox ip link set eth0 up
$busybox ip route add default via 10.0.2.2
exec $busybox switch_root /new /bin/sh -c '
    exec </dev/null >/dev/ttyS0 2>&1
    stty -F /dev/ttyS0 -opost
    setsid --wait sh /run/command
    code=$?
    sync
    echo "ended with $code" >/dev/ttyS1
    echo o >/proc/sysrq-trigger
    while :; do sleep 1; done'
