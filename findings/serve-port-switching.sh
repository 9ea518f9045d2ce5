#!/usr/bin/env bash
# serve --no-port-switching takes another port all the same.
#
# Its help says of --no-port-switching "Do not open a port other than the one specified when it's taken", so one expects
# it to fail, or to use that port. Seen with serve 14.2.7 on node 20.20.2: it asks by connect(2) whether the port answers,
# and where it does it listens on a port that the kernel picks. The option is parsed and never read.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund serve@14.2.7 >/dev/null
python3 -u -c 'import socket, time
taken = socket.create_server(("127.0.0.1", 0))
print(taken.getsockname()[1])
time.sleep(60)' >port &
until [ -s port ]; do sleep 0.1; done
port=$(cat port)
node_modules/.bin/serve --no-port-switching --no-clipboard -l "tcp://127.0.0.1:$port" . >out 2>&1 &
for _ in $(seq 100); do grep -q Accepting out && break; sleep 0.1; done
echo "asked for $port, which is taken; got:"
cat out
grep -q Accepting out && ! grep -q ":$port" out
