"""Attacks on files: read what is not one's own, write where nothing may be written, and the ways around path rules."""

from __future__ import annotations

from functools import partial

from tool_sandbox.attacks.attack import Attack, Outside, Theme, probe

_probe = partial(probe, Theme.FILES)
_ROOT = Outside(frozenset({"root"}))
_PTRACE = Outside(frozenset({"ptrace"}))

_READ = (
    _probe(
        "read_secret_file",
        "Read a file outside that the same user may read.",
        'return secret(open({secret_file}, "rb").read())',
        canary=True,
    ),
    _probe(
        "read_password_hashes",
        "Read the host's /etc/shadow.",
        'return "root:" in open("/etc/shadow").read() and "password hashes"',
        control=_ROOT,
    ),
    _probe("list_outside", "List a folder outside.", 'return "precious" in os.listdir({outside_dir}) and "listed it"'),
    _probe(
        "climb_out_of_the_working_folder",
        "Reach the file by a relative path through the root folder.",
        'return secret(open("../" * 32 + {secret_file}, "rb").read())',
    ),
    _probe(
        "read_through_a_symlink",
        "Read the file through a symbolic link in the working folder.",
        """
        os.symlink({secret_file}, "link")
        return secret(open("link", "rb").read())
        """,
    ),
    _probe(
        "read_through_a_hard_link",
        "Give the file a second name in the working folder and read that.",
        """
        os.link({secret_file}, "second")
        return secret(open("second", "rb").read())
        """,
    ),
    _probe(
        "reopen_a_path_descriptor",
        "Take a descriptor that only names the file and open that again through /proc.",
        """
        name = os.open({secret_file}, os.O_PATH)
        return secret(open(f"/proc/self/fd/{name}", "rb").read())
        """,
    ),
    _probe(
        "read_through_the_root_of_a_process",
        "Reach the file through /proc/PID/root of any other process.",
        'return sweep(f"/proc/{pid}/root" + {secret_file} for pid in others())',
        control=_PTRACE,
        canary=True,
    ),
    _probe(
        "read_through_the_folder_of_a_process",
        "Reach the file through /proc/PID/cwd of a process that works beside it.",
        'return sweep(f"/proc/{pid}/cwd/" + os.path.basename({secret_file}) for pid in others())',
        control=_PTRACE,
    ),
    _probe(
        "read_an_open_file_of_a_process",
        "Read, through /proc/PID/fd, a file that another process holds open.",
        """
        paths = []
        for pid in {1, os.getppid(), {victim_pid}, {zygote}}:
            try:
                paths += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                paths.append(f"/proc/{pid}/fd/0")
        return sweep(path for path in paths if os.path.isfile(path))
        """,
        control=_PTRACE,
    ),
    _probe(
        "use_inherited_descriptors",
        "Use a descriptor that the launcher left open: walk up from a folder, read a file.",
        """
        refusal = OSError(errno.EBADF, "no descriptor is open")
        for number in range(3, 1024):
            try:
                file = os.open("../" * 32 + {secret_file}, os.O_RDONLY, dir_fd=number)
                return secret(os.read(file, 4096))
            except OSError as error:
                refusal = error if error.errno != errno.EBADF else refusal
        raise refusal
        """,
    ),
)

_WRITE = (
    _probe(
        "write_outside",
        "Make a file in a folder outside that the same user may write.",
        """
        open(os.path.join({outside_dir}, "new"), "w").write("x")
        return "wrote a file"
        """,
        canary=True,
    ),
    _probe(
        "overwrite_outside",
        "Write into a file outside.",
        """
        open(os.path.join({outside_dir}, "precious"), "r+").write("X")
        return "wrote into the file"
        """,
    ),
    _probe(
        "truncate_outside",
        "Empty a file outside by its path, without opening it.",
        """
        os.truncate(os.path.join({outside_dir}, "precious"), 0)
        return "emptied the file"
        """,
    ),
    _probe(
        "delete_outside",
        "Delete a file outside.",
        """
        os.unlink(os.path.join({outside_dir}, "precious"))
        return "deleted the file"
        """,
    ),
    _probe(
        "rename_outside",
        "Rename a file outside.",
        """
        os.rename(os.path.join({outside_dir}, "precious"), os.path.join({outside_dir}, "mine"))
        return "renamed the file"
        """,
    ),
    _probe(
        "change_the_mode_of_a_file_outside",
        "Let everybody write a file outside. Landlock has no rule for modes.",
        """
        os.chmod(os.path.join({outside_dir}, "precious"), 0o666)
        return "changed its mode"
        """,
    ),
    _probe(
        "change_the_times_of_a_file_outside",
        "Set the times of a file outside. Landlock has no rule for times.",
        """
        os.utime(os.path.join({outside_dir}, "precious"), (1, 1))
        return "changed its times"
        """,
    ),
    _probe(
        "attach_an_attribute_outside",
        "Hide data in an extended attribute of a file outside. Landlock has no rule for attributes.",
        """
        os.setxattr(os.path.join({outside_dir}, "precious"), "user.steptool", b"x")
        return "attached an attribute"
        """,
        control=Outside(unless="the file system of the temporary folder has no user attributes"),
    ),
    _probe(
        "make_a_fifo_outside",
        "Make a named pipe outside, to talk to a host process.",
        """
        os.mkfifo(os.path.join({outside_dir}, "fifo"))
        return "made a named pipe"
        """,
    ),
    _probe(
        "bind_a_socket_outside",
        "Put a unix socket into a folder outside, for a host process to connect to.",
        """
        import socket
        socket.socket(socket.AF_UNIX).bind(os.path.join({outside_dir}, "socket"))
        return "bound a socket"
        """,
    ),
    _probe(
        "watch_outside",
        "Watch a folder outside for what others do there. Landlock has no rule for watches.",
        """
        watcher = call(294, 26, 0)
        call(254, 27, watcher, ctypes.c_char_p({outside_dir}.encode()), 0x100)
        return "watches the folder"
        """,
    ),
    _probe(
        "write_system_files",
        "Open a system file for writing. Nothing is written.",
        'return opened(["/usr/lib/os-release", "/etc/passwd", "/usr/lib/python3.11/os.py"], os.O_WRONLY)',
        control=_ROOT,
    ),
    _probe(
        "write_into_the_root_folder",
        "Make a file where the next call could find it: anywhere but in the own folder.",
        """
        refusal = PermissionError(errno.EACCES, "")
        for folder in ("/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/dev", "/proc", "/sys", "/run", "/home"):
            path = os.path.join(folder, f"steptool-{os.getpid()}")
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                os.unlink(path)
                return "made " + path
            except OSError as error:
                refusal = error
        raise refusal
        """,
        control=_ROOT,
    ),
    _probe(
        "make_a_device",
        "Make a node for a disk and one for the kernel's memory.",
        """
        import stat
        os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
        return "made a block device"
        """,
        control=_ROOT,
    ),
    _probe(
        "open_a_disk",
        "Open a block device of the host. Nothing is read.",
        """
        import glob
        return opened(sum((glob.glob("/dev/" + name) for name in ("sd*", "vd*", "nvme*", "loop?")), []), os.O_RDONLY)
        """,
        control=Outside(frozenset({"root"}), unless="the machine shows no block device"),
    ),
)

ATTACKS: tuple[Attack, ...] = _READ + _WRITE
