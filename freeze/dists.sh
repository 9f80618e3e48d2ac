#!/usr/bin/env bash
# Wheel and source archive of this checkout, the same bytes every time: bash freeze/dists.sh FOLDER
#
# Needs the Python packages of freeze/tools.txt. setuptools takes the files' own modes and times into the source
# archive, so they are evened out on the way in and out; the moment is the commit's unless SOURCE_DATE_EPOCH is set.
set -euo pipefail
out=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/checkout" "$work/archive"
tar --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./dist -c . | tar -C "$work/checkout" -x --no-same-permissions
find "$work/checkout" -type f -exec chmod 644 {} +
python -m build --no-isolation --outdir "$work/made" "$work/checkout"

tar -C "$work/archive" -xzf "$work"/made/*.tar.gz
name=$(basename "$work"/made/*.tar.gz .tar.gz)
mkdir -p "$out"
# PEP 517 wants the POSIX format; its extra headers would hold the moment of packing.
tar -C "$work/archive" --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
    --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
    -c "$name" | gzip -9 -n >"$out/$name.tar.gz"
cp "$work"/made/*.whl "$out"
