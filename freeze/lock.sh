#!/usr/bin/env bash
# Renews the locks, each with the hash of every file that it allows: bash freeze/lock.sh [--upgrade]
#
# Without --upgrade what is locked stays as it is, unless pyproject.toml or an .in file asks for another. Needs
# uv on PATH (pip install uv). The Windows locks are resolved for the Python that the exe is built with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile() {
    local lock=$1 source=$2
    shift 2
    uv pip compile "$source" --output-file "$lock" --quiet --no-config --generate-hashes \
        --only-binary :all: --no-emit-index-url --custom-compile-command "bash freeze/lock.sh" "$@"
}

windows=(--python-platform x86_64-pc-windows-msvc --python-version 3.13)
compile requirements.txt pyproject.toml "${windows[@]}" "$@"
compile freeze/pyinstaller.txt freeze/pyinstaller.in "${windows[@]}" "$@"
compile freeze/tools.txt freeze/tools.in --universal --python-version 3.10 "$@"
