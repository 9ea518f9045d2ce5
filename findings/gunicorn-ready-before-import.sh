#!/usr/bin/env bash
# gunicorn sends READY=1 before any worker has imported the application, even one whose import fails.
#
# sd_notify(3) has READY=1 say that start-up is complete. Seen with gunicorn 23.0.0 (CPython 3.11): READY=1 arrives
# while the import still runs, and also where the import then raises, so that the master ends with status 3.
# With --preload the import comes first.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check gunicorn==23.0.0
"$dir/venv/bin/gunicorn" --version
cat >"$dir/bad.py" <<'PY'
import os, time
while not os.path.exists("go"):
    time.sleep(0.01)
raise ImportError("no such setting")
PY
cd "$dir"
"$dir/venv/bin/python" - "$dir/venv/bin/gunicorn" <<'PY'
import os, socket, subprocess, sys

def run(*options):
    if os.path.exists("go"):
        os.remove("go")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = os.path.abspath("notify" + "".join(options))
    notify.bind(path)
    server = subprocess.Popen(
        [sys.argv[1], *options, "--bind", "127.0.0.1:0", "bad:app"],
        env={**os.environ, "NOTIFY_SOCKET": path}, stderr=subprocess.DEVNULL,
    )
    # The import cannot end before this wait does.
    notify.settimeout(5)
    try:
        ready = b"READY=1" in notify.recv(4096)
    except TimeoutError:
        ready = False
    open("go", "w").close()
    return ready, server.wait(timeout=30)

plain, preloaded = run(), run("--preload")
print(f"READY=1 while the import runs, exit status: {plain}; with --preload: {preloaded}")
sys.exit(0 if plain == (True, 3) and preloaded[0] is False and preloaded[1] != 0 else 1)
PY
