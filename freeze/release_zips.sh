#!/usr/bin/env bash
# release.zip and pre_flight_checks.zip, and the sums of all: bash freeze/release_zips.sh FOLDER PROGRAM
#
# FOLDER holds wheel and source archive, and gets the zips and SHA256SUMS.txt. PROGRAM is d2i-csc-api as it was
# installed from that wheel. SOURCE_DATE_EPOCH stands for the moment of every file; PYTHON is python3 if not set.
set -euo pipefail
folder=$(realpath "$1")
program=$(realpath -s "$2")
python=${PYTHON:-python3}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# print_sql NAME CONNECTION_STRING: what init-db prints for the live table and for the one of fake children.
print_sql() {
    local suffix file
    for suffix in "" _anon; do
        file=$work/release/sql/staging${suffix}_$1.sql
        (cd "$work" && DB_CONNECTION_STRING=$2 TESTING_MODE=true \
            "$program" init-db --print --table "ssd_api_data_staging$suffix") >"$file"
        [ -s "$file" ]
    done
}

mkdir -p "$work/release/sql" "$work/checks"
print_sql sqlserver 'Driver={ODBC Driver 18 for SQL Server};Server=SERVER'
print_sql postgresql 'Driver={PostgreSQL Unicode};Server=SERVER'
print_sql sqlite sqlite:///staging.db
(cd "$work" && "$program" schedule --program 'C:\csc-api\csc_api_pipeline.exe' --working-directory 'C:\csc-api' \
    --output release/nightly_task.xml)
cp .env.example README.md LICENSE "$folder"/*.whl "$folder"/*.tar.gz "$work/release"
cp pre_flight_checks/* docs/pre_flight_checks.md .env.example LICENSE "$work/checks"
"$python" freeze/zip_files.py --moment "$SOURCE_DATE_EPOCH" --output "$folder/release.zip" "$work/release"
"$python" freeze/zip_files.py --moment "$SOURCE_DATE_EPOCH" --output "$folder/pre_flight_checks.zip" "$work/checks"
"$python" freeze/checksums.py "$folder"
