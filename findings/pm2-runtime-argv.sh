#!/usr/bin/env bash
# Below pm2-runtime 7.0.4 in cluster mode the application finds pm2's own words in process.argv, not its own.
#
# pm2's documentation: what follows `--` is for the application, which finds it where node puts it: from process.argv[2]
# on. So one expects ["hello"] there. Seen: all words of pm2-runtime's own command line come first ("-i", "1", the script,
# "--", "hello", "hello"). Without -i (fork mode) it is as expected.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --silent --no-audit --no-fund --prefix "$dir" pm2@7.0.4
echo 'console.log("ARGV " + JSON.stringify(process.argv.slice(2))); setInterval(() => {}, 1000);' >"$dir/app.js"
seen() {
    PM2_HOME="$dir/home$#" timeout --signal INT 20 "$dir/node_modules/.bin/pm2-runtime" "$@" 2>&1 | grep -o -m 1 'ARGV.*' || true
}
cluster=$(seen -i 1 "$dir/app.js" -- hello)
fork=$(seen "$dir/app.js" -- hello)
echo "cluster: $cluster"
echo "fork:    $fork"
[ "$fork" = 'ARGV ["hello"]' ] && [ "$cluster" = "ARGV [\"-i\",\"1\",\"$dir/app.js\",\"--\",\"hello\",\"hello\"]" ]
