"""Runs one program as a container runtime would: in namespaces of its own, on a root filesystem of its own, without rights.

    python container.py SPEC.json

What the kernel offers is used as it is; there is no container engine. The process waits for the program, writes its id on the
host to the spec's `pid_file`, and ends with its exit code. Not done: limits of memory and processor, and a seccomp profile.
"""

import ctypes
import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path

NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_PIDS, NEW_NET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
SET_PARENT_DEATH_SIGNAL, DROP_FROM_BOUNDING_SET, SET_NO_NEW_PRIVILEGES, AMBIENT, AMBIENT_CLEAR_ALL = 1, 24, 38, 47, 4

LIBC = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """Calls a function of libc, and raises what it complains of."""
    encoded = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
    if getattr(LIBC, name)(*encoded) != 0:
        raise OSError(ctypes.get_errno(), f"{name}{arguments}: {os.strerror(ctypes.get_errno())}")


def mount(source, target, kind=None, flags=0, data=None):
    call("mount", str(source), str(target), kind, ctypes.c_ulong(flags), data)


def bind(source, target, read_only):
    """Shows a file or folder at another place, which is made: a runtime makes it in the image's filesystem too."""
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, target, flags=BIND)
    if read_only:
        mount("none", target, flags=BIND | REMOUNT | READ_ONLY)


def lay_devices(folder):
    mount("tmpfs", folder, "tmpfs", NO_SUID | NO_EXEC, "mode=755,size=64k")
    for name, minor in {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}.items():
        os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        (folder / name).chmod(0o666)
    (folder / "shm").mkdir()
    mount("shm", folder / "shm", "tmpfs", NO_SUID | NO_DEVICES | NO_EXEC, "mode=1777,size=64m")


def lay(spec):
    """Makes the root filesystem as the program sees it."""
    root = Path(spec["root"])
    mount("none", "/", flags=RECURSIVE | PRIVATE)
    mount(root, root, flags=BIND)
    mount("proc", root / "proc", "proc", NO_SUID | NO_DEVICES | NO_EXEC)
    mount("sysfs", root / "sys", "sysfs", NO_SUID | NO_DEVICES | NO_EXEC | READ_ONLY)
    lay_devices(root / "dev")
    for source, target, read_only in spec["mounts"]:
        bind(source, root / target.lstrip("/"), read_only)
    if spec["read_only"]:
        mount("none", root, flags=BIND | REMOUNT | READ_ONLY)
    os.chroot(root)
    os.chdir("/")


def drop_rights(spec):
    """Becomes the pod's user, who can have no rights again."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        call("prctl", DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
    call("prctl", AMBIENT, AMBIENT_CLEAR_ALL, 0, 0, 0)
    os.setgroups(spec["groups"])
    os.setresgid(spec["group"], spec["group"], spec["group"])
    os.setresuid(spec["user"], spec["user"], spec["user"])
    call("prctl", SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def become(spec):
    """The program itself, as the first process of its namespace."""
    socket.sethostname(spec["hostname"])
    lay(spec)
    drop_rights(spec)
    call("prctl", SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


def main():
    spec = json.loads(Path(sys.argv[1]).read_text())
    call("prctl", SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    with open(f"/run/netns/{spec['network']}") as network:
        call("setns", network.fileno(), NEW_NET)
    call("unshare", NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_PIDS)
    child = os.fork()
    if child == 0:
        try:
            become(spec)
        except OSError as error:
            print(f"the container does not start: {error}", file=sys.stderr, flush=True)
        os._exit(125)
    Path(spec["pid_file"]).write_text(str(child))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)


main()
