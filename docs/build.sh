#!/usr/bin/env bash
# Builds the documentation site into site/, and with Chromium the PDF of it: bash docs/build.sh [--no-pdf]
#
# Wants the extra `docs` (pip install -e ".[docs]") and, for the PDF, chromium, google-chrome or what
# CHROMIUM names. Without one it ends with code 1 unless --no-pdf was given. Nothing is fetched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly pdf=csc-api-pipeline.pdf
with_pdf=true
[ "${1:-}" != --no-pdf ] || with_pdf=false

browser=
if $with_pdf; then
    for name in ${CHROMIUM:-} chromium chromium-browser google-chrome; do
        browser=$(command -v "$name") && break
    done
    if [ -z "$browser" ]; then
        echo "No Chromium for the PDF: install it (Debian: apt-get install chromium), or give --no-pdf" >&2
        exit 1
    fi
    export CSC_DOCS_PDF=$pdf
fi

export NO_MKDOCS_2_WARNING=1 # an advertisement; docs/development.md says what is to come
python3 -m mkdocs build --quiet --strict
[ -n "${CSC_DOCS_URL:-}" ] || rm site/404.html # only a server at that address shows it, and finds its styles
echo "site/index.html"
$with_pdf || exit 0

profile=$(mktemp -d "${TMPDIR:-/tmp}/csc-docs.XXXXXX")
trap 'rm -rf "$profile"' EXIT
# The time budget is virtual: it lets the diagrams be drawn, and costs nothing where there are none.
"$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --disable-extensions --user-data-dir="$profile" \
    --virtual-time-budget=30000 --run-all-compositor-stages-before-draw \
    --no-pdf-header-footer --generate-pdf-document-outline --print-to-pdf="site/$pdf" \
    "file://$PWD/site/print_page.html" >"$profile/log" 2>&1 </dev/null || { cat "$profile/log" >&2; exit 1; }
[ -s "site/$pdf" ] || { cat "$profile/log" >&2; echo "Chromium wrote no PDF" >&2; exit 1; }
echo "site/$pdf"
