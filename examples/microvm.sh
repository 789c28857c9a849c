#!/usr/bin/env bash
# A real microVM under vmon: QEMU's `microvm` machine boots a Linux kernel and
# gives you its shell, as an interactive session.
#
#   examples/microvm.sh [OPTIONS OF vmon run]   boot it: `exit` or `poweroff -f` in the guest ends it.
#                                               With `--console pty` the guest's serial port is that
#                                               console, apart from QEMU's own messages
#   examples/microvm.sh --prepare DIR           build DIR/initramfs.cpio, print QEMU's command,
#                                               one argument a line, and start nothing
#
# Needs x86-64 Linux and, on Debian:
#   apt install qemu-system-x86 busybox-static linux-image-cloud-amd64
# If one of them is missing, it prints which, and exits with 77.
#
#   VMON                    the vmon to run; default: this checkout's release or debug build, else PATH
#   VMON_MICROVM_KERNEL     default: the newest vmlinuz-*cloud-amd64 in /boot or /var/cache/vmon-ci
#   VMON_MICROVM_MODULES    a directory with the kernel's virtio modules, for a console hvc0;
#                           default: where the kernel's own are, if there are any
#   VMON_MICROVM_BUSYBOX    a static busybox; default: the one in PATH
#   VMON_MICROVM_ACCEL      kvm or tcg (emulation); default: kvm if a guest boots with it in three seconds
#   VMON_MICROVM_DIR        where the initramfs is built; default: ${XDG_CACHE_HOME:-~/.cache}/vmon-microvm
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'microvm.sh: %s\n' "$*" >&2; }
missing() { say "$*"; exit 77; }
fail() { say "$*"; exit 1; }
usage() { sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

find_kernel() {
  if [ -n "${VMON_MICROVM_KERNEL:-}" ]; then
    kernel=$VMON_MICROVM_KERNEL
    [ -r "$kernel" ] || missing "no kernel that can be read at $kernel (VMON_MICROVM_KERNEL)"
    return
  fi
  local file
  kernel=$(for file in /boot/vmlinuz-*cloud-amd64 /var/cache/vmon-ci/vmlinuz-*cloud-amd64; do
    [ ! -r "$file" ] || printf '%s %s\n' "${file##*/}" "$file"
  done | sort -V | tail -n 1 | cut -d ' ' -f 2)
  [ -n "$kernel" ] || missing 'no kernel: install linux-image-cloud-amd64, or set VMON_MICROVM_KERNEL'
}

# The modules of a virtio console, in the order of loading. A guest without them has only the
# serial port.
modules=(virtio_ring virtio virtio_mmio virtio_console)
find_modules() {
  local version=${kernel##*/vmlinuz-} directory
  modules_from=
  for directory in "${VMON_MICROVM_MODULES:-}" "/lib/modules/$version" \
    "/var/cache/vmon-ci/modules-$version"; do
    if [ -n "$directory" ] && [ -d "$directory" ] &&
      [ -n "$(find "$directory" -name virtio_console.ko -print -quit)" ]; then
      modules_from=$directory
      return
    fi
  done
}

find_busybox() {
  busybox=${VMON_MICROVM_BUSYBOX:-$(PATH=$PATH:/usr/bin:/bin command -v busybox || true)}
  [ -x "$busybox" ] || missing 'no busybox: install busybox-static'
  # The guest has no shared libraries.
  ! ldd "$busybox" >/dev/null 2>&1 || missing "$busybox is not static: install busybox-static"
}

# The guest's whole user space: busybox, and one script as its init.
build_initramfs() { # DIR
  local tree partial
  tree=$(mktemp -d "$1/tree.XXXXXX")
  partial=$tree.cpio
  mkdir "$tree/bin" "$tree/dev" "$tree/modules" "$tree/proc" "$tree/sys" "$tree/tmp"
  cp "$busybox" "$tree/bin/busybox"
  if [ -n "$modules_from" ]; then
    local module
    for module in "${modules[@]}"; do
      # One that is built in has no file.
      find "$modules_from" -name "$module.ko" -exec cp {} "$tree/modules/" \;
    done
  fi
  cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1 # from here on the kernel is quiet, the terminal is the shell's
if [ "$1" = hvc0 ]; then
  for module in virtio_ring virtio virtio_mmio virtio_console; do
    [ ! -e "/modules/$module.ko" ] || insmod "/modules/$module.ko"
  done
  # It comes a moment after its driver.
  for try in 1 2 3 4 5 6 7 8 9 10; do [ -c /dev/hvc0 ] || sleep 0.3; done
  if [ -c /dev/hvc0 ]; then
    setsid sh -c 'exec </dev/hvc0 >/dev/hvc0 2>&1; echo "hvc0 ready"; exec sh -i' &
  fi
  shift
fi
echo 'microvm ready'
# A session with a controlling terminal of its own: job control and Ctrl-C.
[ "$1" = probe ] || setsid cttyhack sh
poweroff -f
INIT
  chmod 755 "$tree" "$tree/init" "$tree/bin/busybox"
  (cd "$tree" && find . | "$busybox" cpio -o -H newc -R 0:0 2>/dev/null) >"$partial"
  rm -rf "$tree"
  chmod 644 "$partial"
  mv -f "$partial" "$1/initramfs.cpio" # at once: another run may be reading the old one
}

# Where the guest's serial port is: our stdin and stdout. signal=off: at a terminal,
# Ctrl-C is a byte for the guest and no signal for QEMU.
serial=(-chardev 'stdio,id=console,signal=off' -serial chardev:console)

# Sets `command` for an accelerator and, if given, an argument for the guest's init.
qemu_command() { # kvm|tcg [ARGUMENT]
  local parameters='console=ttyS0 reboot=t panic=-1' mhz
  if [ "$1" = tcg ]; then
    # An emulated machine on a busy host can't measure its clock, and then hangs
    # at boot. It runs at the host's rate, so pass that rate.
    mhz=$(awk -F '[:.]' '/^cpu MHz/ { print int($2); exit }' /proc/cpuinfo)
    parameters+=" tsc_early_khz=${mhz:-2000}000"
  fi
  command=(
    "$qemu"
    # ACPI is what lets `poweroff` in the guest end QEMU.
    -M 'microvm,acpi=on' -accel "$1" -m 128M
    -nodefaults -no-user-config -nographic
    "${serial[@]}"
    -kernel "$kernel" -initrd "$dir/initramfs.cpio"
    # A panic is a reboot, and a reboot is the end.
    -no-reboot -append "$parameters${2:+ -- $2}"
  )
}

# KVM may be absent, not accessible, or broken: the test is whether a guest boots
# with it.
choose_accel() {
  accel=${VMON_MICROVM_ACCEL:-}
  [ -z "$accel" ] || return 0
  accel=tcg
  [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 0
  qemu_command kvm probe
  local seen
  seen=$(timeout --foreground -k 1 3 "${command[@]}" </dev/null 2>/dev/null || true)
  case $seen in
    *'microvm ready'*) accel=kvm ;;
    *) say 'KVM does not answer; emulating (VMON_MICROVM_ACCEL=tcg skips the attempt)' ;;
  esac
}

prepare() { # DIR
  [ "$(uname -sm)" = 'Linux x86_64' ] || missing 'the guest needs an x86-64 Linux host'
  qemu=$(command -v qemu-system-x86_64) || missing 'no qemu-system-x86_64: install qemu-system-x86'
  find_kernel
  find_modules
  find_busybox
  mkdir -p "$1" || fail "no directory for the initramfs at $1"
  dir=$(cd "$1" && pwd)
  build_initramfs "$dir"
  choose_accel
  qemu_command "$accel"
}

find_vmon() {
  local file target=${CARGO_TARGET_DIR:-$here/../target}
  vmon=${VMON:-}
  [ -z "$vmon" ] || return 0
  for file in "$target/release/vmon" "$target/debug/vmon"; do
    if [ -x "$file" ]; then
      vmon=$file
      return
    fi
  done
  vmon=$(command -v vmon) || fail 'no vmon: run "cargo build --release" first'
}

case ${1:-} in
  -h | --help)
    usage
    ;;
  --prepare)
    [ "$#" = 2 ] || fail 'usage: microvm.sh --prepare DIR'
    prepare "$2"
    printf '%s\n' "${command[@]}"
    ;;
  *)
    find_vmon
    prepare "${VMON_MICROVM_DIR:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/vmon-microvm}"
    name=(--name vm)
    before=
    for option; do
      case $option in
        --name | --name=* | --sandbox-name | --sandbox-name=*) name=() ;;
      esac
      case $before$option in
        --consolepty | --console=pty)
          # vmon puts the path of its PTY in the place of {console}.
          serial=(-serial '{console}')
          qemu_command "$accel"
          ;;
      esac
      before=$option
    done
    exec "$vmon" run "${name[@]}" "$@" -- "${command[@]}"
    ;;
esac
