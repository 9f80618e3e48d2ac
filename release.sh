#!/usr/bin/env bash
# Makes a release: bash release.sh [OPTION...] patch|minor|major|X.Y.Z
#
# Works in a clone of its own and leaves the checkout alone until the end: there it writes the version and the
# changelog, commits, passes the checks, builds, tries the wheel and looks for secrets. What users download is put
# into the output folder. Only after a yes does the commit come into this checkout, with its tag, and is pushed.
#
#   --preview         all of it but commit, tag and push here
#   --yes             asks nothing
#   --checks COMMAND  what has to pass, by default: bash .ci/run, which builds the exe too
#   --output FOLDER   where the files go, by default: dist; those of the release before are removed
#   --tools PYTHON    a Python that has build, setuptools, twine and detect-secrets; by default they are installed
#                     into an environment of their own, the ones that freeze/tools.txt pins as they are pinned
#
# Exit codes: 0 done; 1 the answer was no; 2 usage; 3 the checkout is not ready; 4 a check failed;
# 5 something could not be built; 6 the wheel does not work; 7 a secret was found; 8 git could not push.
set -euo pipefail

readonly version_file=api_pipeline/__init__.py branch=main remote=origin

say() { echo "$*"; }

fail() {
    local code=$1
    shift
    echo "release.sh: $*" >&2
    exit "$code"
}

usage() { fail 2 "$1; try: bash release.sh --help"; }

# step CODE COMMAND WHAT...: runs the function; what it says is shown only if it fails.
step() {
    local code=$1 command=$2 started=$SECONDS result
    shift 2
    # In a shell of its own: set -e does not work inside a condition.
    set +e
    (set -e; "$command") >"$work/step.log" 2>&1 </dev/null
    result=$?
    set -e
    if [ "$result" -ne 0 ]; then
        cat "$work/step.log" >&2
        fail "$code" "$* failed, see above"
    fi
    say "ok    $* ($((SECONDS - started)) s)"
}

current_version() {
    sed -n 's/^__version__ = "\([0-9]*\.[0-9]*\.[0-9]*\)"$/\1/p' "$version_file"
}

# next_version ARGUMENT OLD: prints the version that the argument asks for.
next_version() {
    local major minor patch
    IFS=. read -r major minor patch <<<"$2"
    case $1 in
        major) echo "$((major + 1)).0.0" ;;
        minor) echo "$major.$((minor + 1)).0" ;;
        patch) echo "$major.$minor.$((patch + 1))" ;;
        *) echo "$1" ;;
    esac
}

# unreleased: prints what the changelog has under Unreleased, headings aside.
unreleased() {
    awk '/^## / { inside = ($0 == "## [Unreleased]"); next } inside && NF && !/^#/ { print }' CHANGELOG.md
}

read_arguments() {
    preview='' sure='' checks="bash .ci/run" output='' tools='' wanted=''
    while [ $# -gt 0 ]; do
        case $1 in
            --preview) preview=yes ;;
            --yes) sure=yes ;;
            --checks | --output | --tools)
                [ $# -ge 2 ] || usage "$1 wants a value"
                case $1 in
                    --checks) checks=$2 ;;
                    --output) output=$2 ;;
                    --tools) tools=$2 ;;
                esac
                shift
                ;;
            -h | --help)
                sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
                exit 0
                ;;
            -*) usage "unknown option $1" ;;
            *)
                [ -z "$wanted" ] || usage "one version, not two"
                wanted=$1
                ;;
        esac
        shift
    done
    [ -z "$tools" ] || tools=$(realpath -s "$tools")
    [ -z "$tools" ] || [ -x "$tools" ] || usage "$tools is no Python"
    [ -n "$wanted" ] || usage "which version"
    [[ $wanted =~ ^(patch|minor|major|(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*))$ ]] ||
        usage "$wanted is no version"
}

require_ready() {
    git rev-parse --git-dir >/dev/null 2>&1 || fail 3 "this is not a git checkout"
    local on
    on=$(git symbolic-ref --short -q HEAD || echo "no branch")
    [ "$on" = "$branch" ] || fail 3 "releases are made from $branch, and this is $on"
    [ -z "$(git status --porcelain)" ] || fail 3 "there are changes that are not committed: git status"
    [ -n "$preview" ] || git var GIT_COMMITTER_IDENT >/dev/null 2>&1 ||
        fail 3 "git does not know who you are: git config user.name, and user.email"
    old=$(current_version)
    [ -n "$old" ] || fail 3 "$version_file holds no version such as __version__ = \"1.2.3\""
    version=$(next_version "$wanted" "$old")
    readonly old version tag=v$version
    [ "$(printf '%s\n%s\n' "$old" "$version" | sort -V | tail -n 1)" = "$version" ] ||
        fail 2 "$version is older than $old"
    [ -n "$(unreleased)" ] || fail 3 "CHANGELOG.md says nothing under Unreleased"
    ! grep -qF "## [$version]" CHANGELOG.md || fail 3 "CHANGELOG.md has a section $version already"
    ! git rev-parse -q --verify "refs/tags/$tag" >/dev/null || fail 3 "there is a tag $tag already"
    if git remote get-url "$remote" >/dev/null 2>&1; then
        git fetch -q --no-tags "$remote" "$branch" || fail 3 "$remote cannot be reached"
        git merge-base --is-ancestor FETCH_HEAD HEAD || fail 3 "$remote has commits that are not here: git pull"
        [ -z "$(git ls-remote --tags "$remote" "refs/tags/$tag")" ] || fail 3 "$remote has a tag $tag already"
    elif [ -z "$preview" ]; then
        fail 3 "there is no remote $remote to push to"
    fi
}

# The Python of the fresh environments: that of the tools, if they were given, whose pip need not know a newer one.
find_python() {
    for python in ${tools:+"$tools"} python3.13 python3.12 python3.11 python3.10 python3 python; do
        if "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            python=$(command -v "$python")
            return
        fi
    done
    fail 5 "there is no Python 3.10 or later with venv on PATH"
}

clone() {
    git clone -q --no-hardlinks "$checkout" "$work/clone"
    cd "$work/clone"
    local key value
    for key in user.name user.email; do
        value=$(git -C "$checkout" config "$key") || value=${preview:+preview}
        [ -z "$value" ] || git config "$key" "$value"
    done
}

# The new version in its one literal, and the changelog's section under version and day. The commit has the moment of
# the one that it releases, so that preview and release of a day have the same bytes.
write_version() {
    sed -i "s/^__version__ = .*/__version__ = \"$version\"/" "$version_file"
    awk -v heading="## [$version] - $(date -u +%Y-%m-%d)" '
        { print }
        $0 == "## [Unreleased]" { print ""; print heading }' CHANGELOG.md >"$work/changelog"
    cp "$work/changelog" CHANGELOG.md
    local moment
    moment=$(git log -1 --format=%cI)
    GIT_AUTHOR_DATE=$moment GIT_COMMITTER_DATE=$moment \
        git commit -q -m "Release $version" -- "$version_file" CHANGELOG.md
}

run_checks() { bash -euo pipefail -c "$checks"; }

install_tools() {
    [ -z "$tools" ] || return 0
    "$python" -m venv "$work/tools"
    if [ -f freeze/tools.txt ]; then
        pip_install --require-hashes -r freeze/tools.txt
    fi
    pip_install build setuptools twine detect-secrets
}

pip_install() { "$work/tools/bin/python" -m pip install -q --disable-pip-version-check "$@"; }

# Known finds, all made up, are in the baseline: detect-secrets scan --baseline .secrets.baseline renews it.
scan_for_secrets() {
    local files result=0
    mapfile -d '' files < <(git ls-files -z)
    "$tools" -m detect_secrets.pre_commit_hook --baseline .secrets.baseline "${files[@]}" || result=$?
    # 3: a known find has moved to another line.
    if [ "$result" -eq 3 ]; then
        git checkout -q .secrets.baseline
        result=0
    fi
    return "$result"
}

build_dists() {
    PATH="$(dirname "$tools"):$PATH"
    bash freeze/dists.sh "$made"
    "$tools" -m twine check --strict "$made"/*.whl "$made"/*.tar.gz
}

# The wheel alone in a folder without a source file, as a user has it.
try_wheel() {
    local said
    mkdir "$work/elsewhere"
    cd "$work/elsewhere"
    "$python" -m venv --without-pip "$work/installed"
    "$tools" -m pip --python "$work/installed/bin/python" install -q --disable-pip-version-check "$made"/*.whl
    said=$("$work/installed/bin/d2i-csc-api" --version)
    [[ $said == *"$version"* ]] || { echo "--version says $said"; return 1; }
    "$work/installed/bin/python" -c '
import pathlib, sys, api_pipeline
assert pathlib.Path(sys.prefix) in pathlib.Path(api_pipeline.__file__).parents, api_pipeline.__file__'
    "$work/installed/bin/csc-api-pipeline" --help
    "$work/installed/bin/d2i-csc-api" demo
}

# The checks build the exe where they can (wine, or Windows) and leave it in dist/ of their checkout.
collect_exe() {
    local file
    for file in dist/*.exe dist/*-windows-*.zip dist/*.cdx.json dist/THIRD_PARTY_LICENCES.txt; do
        [ ! -f "$file" ] || cp "$file" "$made"
    done
}

pack() {
    PYTHON=$python bash freeze/release_zips.sh "$made" "$work/installed/bin/d2i-csc-api"
    (cd "$made" && sha256sum --check --quiet SHA256SUMS.txt)
}

hand_over() {
    rm -rf "$output"
    mkdir -p "$output"
    cp "$made"/* "$output"
    say "      $output:"
    sed 's/^/      /' "$output/SHA256SUMS.txt"
}

confirm() {
    [ -z "$sure" ] || return 0
    local answer=
    read -r -p "Tag $tag and push it with $branch to $(git -C "$checkout" remote get-url "$remote")? [y/N] " answer || true
    [[ $answer =~ ^([yY]|[yY][eE][sS])$ ]] || fail 1 "nothing was tagged or pushed; the files are in $output"
}

publish() {
    cd "$checkout"
    [ -z "$(git status --porcelain)" ] && [ "$(git rev-parse HEAD)" = "$start" ] ||
        fail 3 "the checkout has changed meanwhile: begin again"
    git -C "$work/clone" tag -a "$tag" -m "Release $version"
    local commit tagged
    commit=$(git -C "$work/clone" rev-parse "$branch")
    tagged=$(git -C "$work/clone" rev-parse "refs/tags/$tag")
    # The remote first, from here, for which the objects alone are enough: if it refuses, nothing has changed.
    git fetch -q --no-tags "$work/clone" "$branch" "refs/tags/$tag"
    git push -q --atomic "$remote" "$commit:refs/heads/$branch" "$tagged:refs/tags/$tag" ||
        fail 8 "$remote did not take the push; nothing was changed here"
    git merge -q --ff-only "$commit"
    git update-ref "refs/tags/$tag" "$tagged"
    say "ok    $tag is on $remote; the workflow there builds the Windows executable and the release page"
}

main() {
    unset PYTHONPATH # it would bring the sources into sight
    read_arguments "$@"
    cd "$(dirname "${BASH_SOURCE[0]}")"
    checkout=$PWD
    : "${output:=dist}"
    output=$(realpath -m "$output")
    [[ $checkout/ != "$output"/* ]] || usage "--output would remove the checkout itself"
    [ ! -e "$output" ] || [ -f "$output/SHA256SUMS.txt" ] || [ -z "$(ls -A "$output")" ] ||
        fail 3 "$output holds files that are no release: empty it, or name another folder with --output"
    require_ready
    find_python
    start=$(git rev-parse HEAD)
    work=$(mktemp -d "${TMPDIR:-/tmp}/release.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    made=$work/made
    mkdir "$made"
    readonly checkout output work made start
    say "      $old -> $version${preview:+, preview}"

    step 3 clone "clone of its own"
    cd "$work/clone"
    step 3 write_version "version and changelog"
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
    export SOURCE_DATE_EPOCH
    step 5 install_tools "tools"
    : "${tools:=$work/tools/bin/python}"
    step 7 scan_for_secrets "search for secrets"
    step 4 run_checks "checks: $checks"
    step 5 build_dists "wheel and source archive"
    step 6 try_wheel "wheel in a fresh environment"
    collect_exe
    [ -f "$made/csc_api_pipeline.exe" ] ||
        say "note  no executable: the checks built none here, so it is left to the release workflow on Windows"
    step 5 pack "zips and checksums"
    grep '^no command' "$work/step.log" | sed 's/^/note  /' || true
    hand_over
    if [ -n "$preview" ]; then
        say "ok    preview of $version: nothing was committed, tagged or pushed"
        return
    fi
    confirm
    publish
}

main "$@"
