#!/usr/bin/env bash
# A cgroup that was ended by cgroup.kill kills whatever is started in it later by clone3(2) with CLONE_INTO_CGROUP.
#
# cgroup.kill ends the processes that are in a cgroup when it is written to (cgroup-v2.rst, Linux 5.14). Seen with
# Linux 6.18.44: a child that clone3(2) puts into the cgroup an hour later is ended by SIGKILL before its first
# instruction as well, until the directory is removed and made anew; one that moves itself there by cgroup.procs is not.
# The kernel seems to compare the count of kills of the parent's cgroup with that of the child's.
# Needs python3 and a cgroup2 in which this process may make a directory (root on a machine without systemd).
set -euo pipefail
mount=$(findmnt -n -t cgroup2 -o TARGET | head -1)
own=$mount$(sed -n 's/^0:://p' /proc/self/cgroup)
exec python3 - "$own/killed-$$" <<'PY'
import ctypes, os, struct, sys

CLONE_INTO_CGROUP, SIGCHLD, CLONE3 = 1 << 33, 17, 435
libc = ctypes.CDLL(None, use_errno=True)
directory = sys.argv[1]


def end_of(start):
    """How a child ends that does nothing but end well."""
    pid = start()
    if pid == 0:
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "ends well" if status == 0 else f"is ended by signal {-status}"


def into_it():
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    arguments = struct.pack("11Q", CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, fd)
    pid = libc.syscall(CLONE3, arguments, len(arguments))
    os.close(fd)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid


def moved():
    pid = os.fork()
    if pid == 0:
        open(directory + "/cgroup.procs", "w").write("0")
    return pid


os.mkdir(directory)
try:
    seen = [end_of(into_it)]
    open(directory + "/cgroup.kill", "w").write("1")
    seen += [end_of(into_it), end_of(moved)]
    os.rmdir(directory)
    os.mkdir(directory)
    seen += [end_of(into_it)]
finally:
    os.rmdir(directory)
for when, how in zip(["before cgroup.kill", "after it", "after it, moved by cgroup.procs", "made anew"], seen):
    print(f"{when}: a child {how}")
killed = "is ended by signal 9"
sys.exit(0 if seen == ["ends well", killed, "ends well", "ends well"] else 1)
PY
