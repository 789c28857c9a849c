#!/bin/sh
# Installs the C library that `cargo build --profile capi -p vmon-capi` has built.
#
#   capi/install.sh [PREFIX]      # by default /usr/local
#
# DESTDIR is put before each path, for packages; CARGO_TARGET_DIR is where cargo has built.
set -eu
prefix=${1:-/usr/local}
here=$(cd "$(dirname "$0")" && pwd)
built=${CARGO_TARGET_DIR:-$here/../target}/${VMON_PROFILE:-capi}
to=${DESTDIR:-}$prefix
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml" | head -n 1)
# The ABI is compatible within 0.MINOR, and from 1.0 on within MAJOR.
abi=$(printf '%s' "$version" | sed 's/^\(0\.[0-9]*\)\..*/\1/; t; s/\..*//')

install -d "$to/include" "$to/lib/pkgconfig"
install -m 644 "$here/include/vmon.h" "$to/include/vmon.h"
install -m 755 "$built/libvmon_capi.so" "$to/lib/libvmon.so.$abi"
ln -sf "libvmon.so.$abi" "$to/lib/libvmon.so"
install -m 644 "$built/libvmon_capi.a" "$to/lib/libvmon.a"
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|" "$here/vmon.pc.in" >"$to/lib/pkgconfig/vmon.pc"
