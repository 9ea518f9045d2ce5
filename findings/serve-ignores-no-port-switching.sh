#!/usr/bin/env bash
# serve 14.2.7 takes another port although --no-port-switching forbids it.
#
# `serve --help`: "--no-port-switching  Do not open a port other than the one specified when it's taken." So one expects
# that it ends with an error where the port is taken. Seen: the option is parsed and never read; serve asks by connect(2)
# whether somebody answers on the port, and then listens on one that the kernel picks, told on standard output alone.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$dir"' EXIT
npm install --silent --no-audit --no-fund --prefix "$dir" serve@14.2.7
python3 -u -c 'import socket, time
one = socket.create_server(("127.0.0.1", 0))
print(one.getsockname()[1])
time.sleep(120)' >"$dir/port" &
until [ -s "$dir/port" ]; do sleep 0.1; done
port=$(cat "$dir/port")
"$dir/node_modules/.bin/serve" -l "tcp://127.0.0.1:$port" --no-port-switching "$dir" >"$dir/said" 2>&1 &
for _ in $(seq 300); do
    grep -q 'Accepting\|rror' "$dir/said" && break
    sleep 0.1
done
echo "asked for port $port, with --no-port-switching; serve said:"
cat "$dir/said"
other=$(grep -o 'http://127.0.0.1:[0-9]*' "$dir/said" | head -1)
[ -n "$other" ] && [ "$other" != "http://127.0.0.1:$port" ]
