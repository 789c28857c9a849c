#!/usr/bin/env bash
# Installs the tools that `cargo bench --bench peers` runs beside vmon, on Debian.
# May be run again: installed tools are kept. The benchmark needs none of them:
# a missing tool is a gap in its table.
set -euo pipefail

packages=(
  coreutils            # cat, tee, true
  bsdutils             # script
  tini
  s6                   # s6-log, s6-supervise
  runit                # svlogd
  daemontools          # multilog
  conmon               # with the benchmark as its runtime: neither runc nor crun is needed
  dtach tmux
)

say() { printf 'benches/install-peers.sh: %s\n' "$*" >&2; }

is_installed() {
  dpkg -s "$1" 2>/dev/null | grep -q '^Status: install ok installed$'
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if [ "${#missing[@]}" = 0 ]; then
  say 'all is there'
  exit
fi

sudo=()
if [ "$(id -u)" != 0 ]; then
  sudo=(sudo)
  if ! command -v sudo >/dev/null; then
    say "needs root, or sudo, to install ${missing[*]}"
    exit 1
  fi
fi
apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive
  apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)

say "installing ${missing[*]}"
"${apt[@]}" update >&2
"${apt[@]}" install --no-install-recommends "${missing[@]}" </dev/null >&2
