# Shared by the scripts; to be sourced from the root of the project.
# shellcheck shell=bash

say() { echo "-- $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# install_missing COMMAND=PACKAGE…: Debian packages for commands that are not there.
install_missing() {
    local pair packages=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    say "installing ${packages[*]}"
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# expect_equal WHAT EXPECTED ACTUAL
expect_equal() {
    [ "$2" = "$3" ] || fail "$1: expected <$2>, got <$3>"
    say "$1: $3"
}

# expect_exit CODE COMMAND…: the command must end with this code; its output is shown when it does not.
expect_exit() {
    local expected=$1 code=0 output
    shift
    output=$("$@" 2>&1) || code=$?
    [ "$code" = "$expected" ] || fail "\`$*\` ended with $code, not $expected: $output"
    say "\`$*\` ends with $expected as it should"
}

# wait_until SECONDS WHAT COMMAND…: polls until the command succeeds.
wait_until() {
    local seconds=$1 what=$2 began=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $((SECONDS - began)) -lt "$seconds" ] || fail "after $seconds s, still not: $what"
        sleep 0.2
    done
}

# start_cluster: a detached `dev` cluster of the release build in a folder of its own, ended when the script ends.
start_cluster() {
    PATH="$PWD/target/release:$PATH"
    DFS_DEV_DATA=$(mktemp -d "${TMPDIR:-/tmp}/dfs-dev.XXXXXX")
    DFS_DEV_BASE_PORT=${DFS_DEV_BASE_PORT:-17570}
    DFS_DIRECTORY=127.0.0.1:$DFS_DEV_BASE_PORT
    export PATH DFS_DEV_DATA DFS_DEV_BASE_PORT DFS_DIRECTORY
    trap end_cluster EXIT
    dfs-cli dev --detach
}

end_cluster() {
    local status=$?
    if [ $status -ne 0 ]; then
        tail -n 20 "$DFS_DEV_DATA"/logs/*.log >&2 || true
    fi
    dfs-cli dev stop || true
    rm -rf "$DFS_DEV_DATA"
    return $status
}

# python_with_grpc: the path of a Python that has what the foreign client needs.
python_with_grpc() {
    local venv=target/foreign-venv
    if ! "$venv/bin/python" -c 'import grpc_reflection' 2>/dev/null; then
        python3 -m venv --clear "$venv" >&2
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/foreign/requirements.txt >&2
    fi
    echo "$venv/bin/python"
}
