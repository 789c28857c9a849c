#!/bin/sh
# As much of an OCI runtime as conmon needs: 'create' starts the bundle's script.
while [ $# -gt 0 ]; do
  case $1 in
    create) create=yes ;;
    --bundle) bundle=$2; shift ;;
    --pid-file) pid_file=$2; shift ;;
  esac
  shift
done
[ -n "$create" ] || exit 0
sh "$bundle/lines.sh" &
echo $! >"$pid_file"
