#!/bin/sh
# The first process of a guest: makes it a machine, runs /steps, says each one's verdict on the
# console ("vm: ok NAME SECONDS", "vm: FAILED NAME …") and ends QEMU with the result.
export PATH=/bin HOME=/root CI=true
export BGP_OBSERVER_CACHE=/cache BGP_OBSERVER_BIN=/bin/bgp-observer BGP_OBSERVER_TREE=/tree
# Tests wait so many times longer, and expect what other hosts may refuse or lack: that functions can
# be traced, and devices of all kinds.
export BGP_OBSERVER_TEST_SLOWNESS=12 BGP_OBSERVER_TEST_TRACES=1 BGP_OBSERVER_TEST_DEVICES=1

finish() {
    echo "vm: end $1"
    # isa-debug-exit: QEMU exits with twice the byte plus one.
    printf "\\$2" | dd of=/dev/port bs=1 seek=1281 conv=notrunc 2>/dev/null
    # Not reached, unless this kernel has no /dev/port: then -no-reboot ends QEMU.
    reboot -f
}

mkdir -p /proc /sys /dev /run /tmp /root /var/lib
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/netns /sys/fs/cgroup
mount -t cgroup2 cgroup /sys/fs/cgroup
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
ip link set lo up

while read -r module; do
    insmod "/modules/$module" || finish "module $module" 022
done </modules/order

failed=0
while read -r name limit command; do
    begun=$(cut -d ' ' -f 1 /proc/uptime)
    echo "vm: begin $name"
    timeout -s KILL "$limit" sh -c "$command"
    status=$?
    ended=$(cut -d ' ' -f 1 /proc/uptime)
    took=$(awk "BEGIN { print $ended - $begun }")
    if [ "$status" = 0 ]; then
        echo "vm: ok $name $took"
    else
        echo "vm: FAILED $name $took (exit $status)"
        failed=1
    fi
done </steps

# What the kernel itself found wrong while our programs ran. Not every call trace: the OOM killer, which
# one test calls for, prints one.
if dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task'; then
    echo "vm: FAILED kernel-log 0"
    failed=1
fi
if [ "$failed" = 0 ]; then finish ok 020; else finish failed 021; fi
