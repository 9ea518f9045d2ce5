#!/usr/bin/env bash
# The kernel counts the code of a process as its private dirty memory as long as the file is new.
#
# Seen with Linux 6.18.44, ext4: a program that was just copied or linked runs, and /proc/PID/smaps says "Private_Dirty" of
# its code (r-x), in which nobody has written ("Anonymous" is 0 there). Dirty is the page of the file, which waits to be
# written back: after fsync(2) of the file the same process, untouched, has none. So a build that is measured at once looks
# worse than the one before by all of its code that is mapped, and on tmpfs, which never writes back, it stays so: in a
# container whose program is on one, each process pays for its code in a sum of Private_Dirty. "Anonymous" is what the process
# has of its own.
# Needs bash, python3.9 or later, and a disk file system below the folder that TMPDIR or /var/tmp is.
set -euo pipefail
exec python3 - <<'PY'
import os, shutil, subprocess, sys, tempfile


def code(pid, path):
    """kB of Private_Dirty and of Anonymous in the mapping of the code of `path`."""
    dirty = anonymous = 0
    counts = False
    for line in open(f"/proc/{pid}/smaps"):
        words = line.split()
        if not words[0].endswith(":"):
            counts = words[-1] == path and words[1] == "r-xp"
        elif counts and words[0] == "Private_Dirty:":
            dirty += int(words[1])
        elif counts and words[0] == "Anonymous:":
            anonymous += int(words[1])
    return dirty, anonymous


def look(folder, flush):
    path = os.path.join(os.path.realpath(folder), "program")
    shutil.copy("/bin/bash", path)
    words = [path, "-c", "echo; read"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    new = code(process.pid, path)
    if flush:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    later = code(process.pid, path)
    process.stdin.close()
    process.wait()
    return new, later


print(os.uname().release)
with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
    new, later = look(folder, True)
print(f"new file: {new[0]} kB dirty, {new[1]} kB anonymous; the same process after fsync: {later[0]} and {later[1]}")
with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
    in_memory, _ = look(folder, False)
print(f"on tmpfs: {in_memory[0]} kB dirty, {in_memory[1]} kB anonymous")
if not (new[0] > 0 and later[0] == 0 and in_memory[0] > 0 and new[1] == later[1] == in_memory[1] == 0):
    sys.exit("this has changed")
PY
