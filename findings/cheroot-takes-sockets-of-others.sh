#!/usr/bin/env bash
# cheroot 11.1.2 serves on fd 3 although LISTEN_PID names another process.
#
# sd_listen_fds(3): the sockets are for the process whose pid is in LISTEN_PID, and their number is in LISTEN_FDS; both are
# inherited by every child, which must leave them alone. So one expects that a cheroot below a socket-activated wrapper
# (LISTEN_PID is the wrapper's) binds the address that it was given. Seen: it looks only whether LISTEN_PID is set; with
# another pid in it, and without LISTEN_FDS, it takes fd 3 for its own and drops the address that it was told.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check cheroot==11.1.2
"$dir/venv/bin/python" - <<'PYTHON'
import os, socket
one = socket.create_server(("127.0.0.1", 0))
if one.fileno() != 3:
    os.dup2(one.fileno(), 3)
from cheroot import wsgi

def served(**environment):
    os.environ.update(environment)
    server = wsgi.Server(("127.0.0.1", 0), None)
    server.prepare()
    return server.socket.getsockname()[1]

alone, wrong = served(), served(LISTEN_PID="1")
print(f"fd 3 is port {one.getsockname()[1]}; without LISTEN_PID it serves port {alone}, with LISTEN_PID=1 port {wrong}", flush=True)
os._exit(not (alone != one.getsockname()[1] == wrong))  # Its worker threads are not waited for.
PYTHON
