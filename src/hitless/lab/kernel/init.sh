#!/bin/sh
# The first process of a guest kernel: makes a private, writable copy of the host's file tree, runs one command
# in it and powers off.
#
# The kernel's command line gives one thing, `hitless_exchange`: the directory through which host and guest talk.
# It holds, written by the host:
#   parameters.sh   shell assignments: results, cwd, modules, preload, kind, hostname, keep_1.. keep_N, keeps
#   command.sh      the command, quoted for sh
# and, written here:
#   stdout, stderr  what the command says (plain files: no terminal rewrites a byte of them)
#   uname           "RELEASE CPUS"
#   exit-status     a number; its absence tells the host that this kernel died
#
# Nothing here may end the script: when the first process ends, the kernel panics. So no `set -e`; `die` and `leave`.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

power_off() {
    echo o >/proc/sysrq-trigger
    while :; do sleep 3600; done
}

leave() {
    echo "$1" >"$hitless_exchange/exit-status.new"
    mv "$hitless_exchange/exit-status.new" "$hitless_exchange/exit-status"
    sync -f "$hitless_exchange/exit-status"
    power_off
}

die() {  # the host finds no exit status and shows this line, the last of the console's log
    echo "hitless-guest: $1"
    power_off
}

# A writable window to one directory of the host, at the same path.
share() {
    mkdir -p "$2" || return 1
    case "$kind" in
        hostfs) mount -t hostfs -o "$1" results "$2" ;;
        9p) mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=524288,access=any results "$2" ;;
    esac
}

mount -t proc proc /proc || while :; do sleep 3600; done
[ -r "$hitless_exchange/parameters.sh" ] || die "cannot read $hitless_exchange/parameters.sh"
. "$hitless_exchange/parameters.sh"

# 1. A tmpfs to build in. It hides the host's /tmp only here; the overlay below still sees it.
mount -t tmpfs tmpfs /tmp || die "cannot mount a tmpfs"
mkdir -p /tmp/upper /tmp/scratch /tmp/root /tmp/tree/lib
ln -s "$modules" /tmp/tree/lib/modules
grep -q overlay /proc/filesystems || modprobe -d /tmp/tree overlay || die "cannot load the overlay module"

# 2. The host's tree, read-only, under a layer of memory that takes every write.
root=/tmp/root
mount -t overlay -o lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/scratch root $root || die "cannot mount the overlay"

# 3. The directories of a running system, empty and ours, with the few paths that must stay visible under them.
mkdir -p /tmp/plain
mount --bind $root /tmp/plain
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t devtmpfs devtmpfs $root/dev || die "cannot mount devtmpfs"
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts -o ptmxmode=666 devpts $root/dev/pts
for place in /dev/shm /run /tmp; do
    mount -t tmpfs -o mode=1777 tmpfs $root$place || die "cannot mount $place"
done
chmod 755 $root/run
mkdir -p $root/run/netns $root/run/lock
for name in fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    [ -e "$root/dev/${name%%:*}" ] || ln -s "${name#*:}" "$root/dev/${name%%:*}"
done
n=1
while [ "$n" -le "$keeps" ]; do
    eval "kept=\$keep_$n"
    mkdir -p "$root$kept" && mount --bind "/tmp/plain$kept" "$root$kept" || die "cannot keep $kept"
    n=$((n + 1))
done
umount /tmp/plain
mkdir -p $root/lib/modules
mount --bind "$modules" $root/lib/modules
share "$results" "$root$results" || die "cannot mount the results directory $results"

# 4. Move in. The old root goes away, so that nothing inside can find a way around the overlay.
mkdir -p $root/tmp/.old
cd $root && pivot_root . tmp/.old || die "cannot change the root"
umount -l /tmp/.old 2>/dev/null && rmdir /tmp/.old

# 5. What every command may expect.
# Most modules load themselves on first use; loading the usual ones in one go saves a process start for each.
modprobe -a -q $preload
ip link set lo up
echo "$hostname" >/proc/sys/kernel/hostname
echo "$(uname -r) $(nproc)" >"$hitless_exchange/uname"
cd "$cwd" || die "cannot enter the working directory $cwd"

sh "$hitless_exchange/command.sh" </dev/null >"$hitless_exchange/stdout" 2>"$hitless_exchange/stderr"
leave $?
