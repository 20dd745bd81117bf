#!/usr/bin/env bash
# The gateway under load, beside a bare Pingora proxy and the origin alone; memory of idle clients; time to start.
#
# Prints one table and says of each bound whether it holds; fails when one does not. The proxies take turns, round after round,
# because machines are shared: figures drift, ratios within a round hardly do, and what is printed is the median.
#
# The bound on CPU time is for a gateway without access log, since the proxy it is compared with writes none; what the log costs
# stands in the line below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:${HOME-}/.cargo/bin

usage() {
    cat <<'EOT'
usage: benches/e2e.sh

  ROUNDS=15 REQUESTS=20000 CONNECTIONS=32 THREADS=2 IDLE=3000   may be set in the environment
EOT
}

rounds=${ROUNDS:-15} requests=${REQUESTS:-20000} connections=${CONNECTIONS:-32} threads=${THREADS:-2} idle=${IDLE:-3000}

# What has to hold.
max_cpu_ratio=1.15
max_idle_kib=40
max_start_ms=200
max_bomb_ms=100

variants=(origin bare fngate log many)
declare -A title=(
    [origin]="origin alone"
    [bare]="bare Pingora"
    [fngate]="fngate"
    [log]="fngate, access log"
    [many]="fngate, 10000 routes"
)
declare -A address pid
broken=0

main() {
    (($# == 0)) || { usage >&2; exit 2; }
    build
    work=$(mktemp -d)
    # The files hold tokens, and the gateway warns of those that others can read.
    umask 077
    trap clean_up EXIT
    # Thousands of idle clients take as many descriptors, here and in the proxies.
    ulimit -Sn "$(ulimit -Hn)"

    describe_machine
    start_all
    measure_load
    measure_idle
    stop_all
    measure_start
    measure_bomb
    describe_load
    ((broken == 0)) || { echo "e2e: $broken bounds do not hold" >&2; exit 1; }
}

build() {
    cargo build --release --locked --bins --examples
    bin=${CARGO_TARGET_DIR:-target}/release
}

describe_machine() {
    echo "date       $(date -u '+%F %H:%M UTC')"
    echo "commit     $(git describe --always --dirty 2>/dev/null || echo unknown)"
    echo "machine    $(nproc) x $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1), $(uname -sr)"
    echo "compiler   $(rustc --version)"
    echo "command    ROUNDS=$rounds REQUESTS=$requests CONNECTIONS=$connections THREADS=$threads IDLE=$idle benches/e2e.sh"
    describe_load
    echo
}

describe_load() {
    echo "load       $(cut -d ' ' -f 1-3 /proc/loadavg)"
}

start_all() {
    start origin "$bin/examples/origin"
    wait_until grep -q : "$work/origin.out"
    address[origin]=$(<"$work/origin.out")

    local free
    mapfile -t free < <("$bin/examples/load" ports 7)
    address[bare]=${free[0]}
    start bare "$bin/examples/bare_pingora" "${free[0]}" "${address[origin]}" "$threads"
    start_gateway fngate "${free[1]}" "${free[2]}" off 0
    start_gateway log "${free[3]}" "${free[4]}" "{ path: $work/access.log }" 0
    start_gateway many "${free[5]}" "${free[6]}" off 9999

    local variant
    for variant in "${variants[@]}"; do
        wait_until answers "${address[$variant]}"
    done
}

# start_gateway NAME LISTENER ADMIN ACCESS_LOG OTHER_ROUTES
start_gateway() {
    address[$1]=$2
    {
        settings "$2" "$3" "$4"
        cat <<EOT
  - name: bench
    match: { path: /bench/* }
    target:
      openfunction:
        function_uri: http://${address[origin]}/default/function-sample
        authorization: { service_token: "test:test" }
EOT
        routes "$5"
    } >"$work/$1.yaml"
    start "$1" "$bin/fngate" run -c "$work/$1.yaml"
}

# settings LISTENER ADMIN ACCESS_LOG
settings() {
    cat <<EOT
listeners: [ { address: "$1" } ]
admin: { address: "$2" }
threads: $threads
access_log: $3
routes:
EOT
}

# routes COUNT
routes() {
    local i
    for ((i = 0; i < $1; i++)); do
        printf '  - name: route-%d\n    match: { path: /functions/%d/*, hosts: [ host-%d.example.com ] }\n' "$i" "$i" $((i % 50))
        printf '    target:\n      openfunction:\n        function_uri: http://127.0.0.1:30583/default/function-%d\n' "$i"
        printf '        authorization: { service_token: "test:test" }\n'
    done
}

measure_load() {
    local round variant order
    for ((round = 1; round <= rounds; round++)); do
        order=("${variants[@]}")
        ((round % 2)) || order=(many log fngate bare origin)
        for variant in "${order[@]}"; do
            "$bin/examples/load" run "${address[$variant]}" "$connections" "$requests" "${pid[$variant]}" \
                >>"$work/$variant.tsv"
        done
    done

    printf '%-22s %9s %8s %8s %12s %8s %9s\n' "" "req/s" "p50 us" "p99 us" "CPU us/req" "ratio" "RSS KiB"
    for variant in "${variants[@]}"; do
        printf '%-22s %9s %8s %8s %12s %8s %9s\n' "${title[$variant]}" "$(median 1 "$work/$variant.tsv")" \
            "$(median 2 "$work/$variant.tsv")" "$(median 3 "$work/$variant.tsv")" \
            "$(median 4 "$work/$variant.tsv")" "$(ratio "$variant")" "$(median 5 "$work/$variant.tsv")"
    done
    echo
    bound "CPU time, ratio to bare Pingora" "$(ratio fngate)" "$max_cpu_ratio"
}

# CPU time per request against bare Pingora in the same round; the median of the rounds.
ratio() {
    paste "$work/$1.tsv" "$work/bare.tsv" | awk '{ printf "%.3f\n", $4 / $9 }' | median 1
}

measure_idle() {
    local bytes
    bytes=$("$bin/examples/load" idle "${address[fngate]}" "$idle" "${pid[fngate]}")
    bound "memory per idle client, KiB" "$(kib "$bytes")" "$max_idle_kib"
    bytes=$("$bin/examples/load" idle "${address[bare]}" "$idle" "${pid[bare]}")
    printf '%-36s %8s\n' "  the same of bare Pingora" "$(kib "$bytes")"
}

kib() {
    awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 1024 }'
}

# From the call of the program until /readyz says 200, with a thousand routes.
measure_start() {
    local free i began
    mapfile -t free < <("$bin/examples/load" ports 2)
    { settings "${free[0]}" "${free[1]}" off && routes 1000; } >"$work/thousand.yaml"
    for ((i = 0; i < 7; i++)); do
        began=${EPOCHREALTIME/./}
        start thousand "$bin/fngate" run -c "$work/thousand.yaml"
        wait_until is_ready "${free[1]}"
        echo $(((${EPOCHREALTIME/./} - began) / 1000)) >>"$work/start.tsv"
        stop thousand
    done
    bound "start to ready, 1000 routes, ms" "$(median 1 "$work/start.tsv")" "$max_start_ms"
}

# Nine lists of nine aliases each: a few hundred bytes that stand for 10^9 values.
measure_bomb() {
    local level status began
    {
        echo 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]'
        for ((level = 1; level <= 9; level++)); do
            printf "a$level: &a$level [%s*a$((level - 1))]\n" "$(printf "*a$((level - 1)), %.0s" {1..9})"
        done
        echo 'routes: *a9'
    } >"$work/bomb.yaml"
    began=${EPOCHREALTIME/./}
    status=0
    "$bin/fngate" check "$work/bomb.yaml" >"$work/bomb.out" 2>&1 || status=$?
    local took=$(((${EPOCHREALTIME/./} - began) / 1000))
    ((status == 78)) || stop_with "the alias bomb was not refused (status $status): $(head -n 5 "$work/bomb.out")"
    bound "refusal of an alias bomb, ms" "$took" "$max_bomb_ms"
}

# bound WHAT VALUE LIMIT
bound() {
    local verdict=holds
    if awk -v value="$2" -v limit="$3" 'BEGIN { exit value < limit }'; then
        verdict=BROKEN
        broken=$((broken + 1))
    fi
    printf '%-36s %8s   below %-6s %s\n' "$1" "$2" "$3" "$verdict"
}

# median COLUMN [FILE]
median() {
    cut -f "$1" "${@:2}" | sort -n | awk '{ line[NR] = $0 } END { print line[int((NR + 1) / 2)] }'
}

# start NAME COMMAND...
start() {
    "${@:2}" >"$work/$1.out" 2>"$work/$1.err" &
    pid[$1]=$!
}

stop() {
    kill "${pid[$1]}" 2>/dev/null || true
    wait "${pid[$1]}" 2>/dev/null || true
    unset "pid[$1]"
}

stop_all() {
    local name
    for name in "${!pid[@]}"; do
        stop "$name"
    done
}

# Once a millisecond or so, at most for ten seconds.
wait_until() {
    local deadline=$((SECONDS + 10))
    until "$@"; do
        ((SECONDS < deadline)) || stop_with "gave up waiting: $*; see below
$(tail -n 5 "$work"/*.err)"
        sleep 0.001
    done
}

answers() {
    (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null
}

is_ready() {
    local line
    { exec 3<>"/dev/tcp/${1%:*}/${1##*:}"; } 2>/dev/null || return
    printf 'GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" >&3
    read -r line <&3 || line=
    exec 3>&-
    [[ $line == "HTTP/1.1 200 "* ]]
}

clean_up() {
    stop_all
    rm -rf "$work"
}

stop_with() {
    echo "e2e: $1" >&2
    exit 1
}

main "$@"
