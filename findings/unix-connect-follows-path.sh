#!/usr/bin/env bash
# A client that sleeps in connect(2) at a full queue of a unix stream socket looks its path up again when it is woken.
#
# unix(7) and connect(2) do not say so, and one would expect it to stay with the socket whose queue it waits for. Seen
# on Linux 6.18: two clients fill the queue (backlog 1), a third sleeps in connect(2). Another socket is bound and
# renamed over the path. accept(2) on the old socket wakes the third, and its connection arrives at the new one.
# Nothing is installed: python3 and the kernel.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
uname -sr
python3 - "$dir" <<'PY'
import os, select, socket, sys, threading, time

path = os.path.join(sys.argv[1], "s")

def listener(at):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.bind(at)
    one.listen(1)
    return one

def client():
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.connect(path)
    return one

old = listener(path)
queued = [client(), client()]
third = threading.Thread(target=client, daemon=True)
third.start()
deadline = time.monotonic() + 10
while open(f"/proc/self/task/{third.native_id}/syscall").read().split()[0] != {"x86_64": "42", "aarch64": "203"}[os.uname().machine]:
    assert time.monotonic() < deadline, "the third client never slept in connect(2)"
    time.sleep(0.001)
new = listener(path + ".new")
os.rename(path + ".new", path)
old.accept()
arrived, _, _ = select.select([new], [], [], 5)
old.accept()
left, _, _ = select.select([old], [], [], 0)
print(f"at the new socket: {bool(arrived)}, more than the two at the old one: {bool(left)}")
sys.exit(0 if arrived and not left else 1)
PY
