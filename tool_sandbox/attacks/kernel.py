"""Attacks on the kernel: namespaces, mounts, system calls that no tool needs, and ways around a filter of system calls.

Where a call that succeeds would change the machine, its arguments are made so that the kernel refuses them after it has
looked at who asks: `EINVAL`, `EFAULT` or `EBADF` instead of `EPERM` or `ENOSYS` shows that nothing stood in between.
"""

from __future__ import annotations

from functools import partial

from tool_sandbox.attacks.attack import Attack, NoControl, Outside, Theme, probe

_probe = partial(probe, Theme.KERNEL)
_ANY = Outside()
_ROOT = Outside(frozenset({"root"}))


def _built(option: str, *needs: str) -> Outside:
    return Outside(frozenset(needs), unless=f"the kernel was built or set without {option}")


def _call(name: str, aim: str, call: str, control: Outside | NoControl = _ANY, canary: bool = False) -> Attack:
    return _probe(name, aim, f"return reached({call})", control=control, canary=canary)


_NAMESPACES = (
    _call(
        "make_a_user_namespace",
        "Become root in a user namespace of one's own (unshare).",
        "272, 97, 0x10000000",
        _built("unprivileged user namespaces"),
        canary=True,
    ),
    _call("make_a_network_namespace", "Unshare the network.", "272, 97, 0x40000000", _ROOT),
    _probe(
        "clone_a_user_namespace",
        "The same by clone, whose flags are a plain argument.",
        """
        child = call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)
        if child == 0:
            libc._exit(0)
        os.waitpid(child, 0)
        return "cloned"
        """,
        control=_built("unprivileged user namespaces"),
    ),
    _probe(
        "clone3_a_user_namespace",
        "The same by clone3, whose flags are behind a pointer where no filter can read them.",
        """
        wish = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17, 0, 0, 0)
        child = call(435, 435, wish, 64)
        if child == 0:
            libc._exit(0)
        os.waitpid(child, 0)
        return "cloned"
        """,
        control=_built("unprivileged user namespaces"),
    ),
    _call("join_a_namespace", "Reach setns.", "308, 268, -1, 0"),
    _call("mount", "Reach mount.", "165, 40, 0, 0, 0, 0, 0"),
    _call("unmount", "Reach umount2, to uncover what a mount hides.", "166, 39, 0, 0"),
    _call("mount_by_descriptors", "Reach the newer calls for mounts: open_tree.", "428, 428, -1, 0, 0"),
    _call("move_a_mount", "Reach move_mount.", "429, 429, -1, 0, -1, 0, 0", _ROOT),
    _call(
        "change_the_attributes_of_a_mount", "Reach mount_setattr, to make a mount writable.", "442, 442, -1, 0, 0, 0, 0"
    ),
    _call("pivot_the_root", "Reach pivot_root.", "155, 41, 0, 0", _ROOT),
    _call("change_the_root", "Reach chroot.", "161, 51, 0"),
    _call(
        "list_mounts",
        "Ask for the mounts by a call newer than most filters (listmount).",
        "458, 458, 0, 0, 0, 0",
        _built("listmount"),
    ),
)

_SURFACE = (
    _probe(
        "set_up_io_uring",
        "Get a queue through which calls pass without a filter.",
        """
        return f"ring {call(425, 425, 4, ctypes.create_string_buffer(120))}"
        """,
        control=_built("io_uring"),
        canary=True,
    ),
    _call("read_keyrings", "Reach keyctl: keys live outside of namespaces.", "250, 219, 0, -3, 0", _built("keys")),
    _probe(
        "add_a_key",
        "Leave data in a keyring.",
        """
        kind, name, data = (ctypes.c_char_p(text) for text in (b"user", b"steptool", b"x"))
        return f"key {call(248, 217, kind, name, data, 1, -2)}"
        """,
        control=_built("keys"),
    ),
    _probe(
        "request_a_key",
        "Make the kernel look for a key, perhaps by a program of the host.",
        "return reached(249, 218, ctypes.c_char_p(b'user'), ctypes.c_char_p(b'steptool-none'), 0, 0)",
        control=_built("keys"),
    ),
    _call("load_bpf", "Load a program into the kernel (bpf).", "321, 280, 0, 0, 0", _built("bpf", "root")),
    _call("count_events", "Measure other processes (perf_event_open).", "298, 241, 0, 0, -1, -1, 0", _built("perf")),
    _call(
        "handle_page_faults",
        "Stop the kernel in the middle of a copy (userfaultfd).",
        "323, 282, 1",
        _built("userfaultfd"),
    ),
    _call("ptrace_a_child", "Reach ptrace by asking to be traced.", "101, 117, 0, 0, 0, 0"),
    _call(
        "compare_processes", "Compare kernel objects of processes (kcmp).", "312, 272, 0, 0, 99, 0, 0", _built("kcmp")
    ),
    _call(
        "open_by_handle",
        "Open a file by its number, past every path rule (open_by_handle_at).",
        "304, 265, -1, 0, 0",
        _ROOT,
    ),
    _call("name_a_handle", "Get the number of a file (name_to_handle_at).", "303, 264, -1, 0, 0, 0, 0"),
    _call(
        "watch_all_files",
        "Watch a whole file system (fanotify_init).",
        "300, 262, 0xFFFFFFF, 0",
        _built("fanotify", "root"),
    ),
    _call(
        "hide_memory",
        "Make memory that not even the kernel's tools see (memfd_secret).",
        "447, 447, 0xFF",
        _built("secret memory"),
    ),
    _call("advise_another_process", "Evict pages of another process (process_madvise).", "440, 440, -1, 0, 0, 0, 0"),
    _call("choose_a_personality", "Switch off address randomisation (personality).", "135, 92, 0xFFFFFFFF"),
    _call(
        "load_a_kernel",
        "Reach kexec_load, with flags that do not exist.",
        "246, 104, 0, 1000000, 0, 0xFF00",
        _built("kexec", "root"),
    ),
    _call("load_a_module", "Reach init_module, with an empty image.", "175, 105, 0, 0, 0", _built("modules", "root")),
    _call("load_a_module_from_a_file", "Reach finit_module.", "313, 273, -1, 0, 0", _built("modules", "root")),
    _call("reboot", "Reach reboot, without its magic numbers.", "169, 142, 0, 0, 0, 0", _ROOT),
    _call(
        "swap_to_a_file",
        "Reach swapon, with flags that do not exist.",
        "167, 224, 0, 0x7FFFFFFF",
        _built("swap", "root"),
    ),
    _call("set_quotas", "Reach quotactl.", "179, 60, 0x7FFFFFFF, 0, 0, 0", _built("quotas")),
    _call(
        "read_the_kernel_log",
        "Ask for the size of the kernel's log (syslog).",
        "103, 116, 10, 0, 0",
        _built("open kernel logs"),
    ),
    _probe(
        "set_the_clock",
        "Reach clock_settime, with a time that does not exist.",
        "return reached(227, 112, 0, (ctypes.c_long * 2)(0, -1))",
    ),
    _probe(
        "set_the_host_name",
        "Give the machine the name that it has.",
        """
        name = os.uname().nodename.encode()
        call(170, 161, ctypes.c_char_p(name), len(name))
        return "set the name"
        """,
        control=_ROOT,
    ),
)

_AROUND_THE_FILTER = (
    _probe(
        "call_by_32_bit_numbers",
        "Make a system call by int 0x80, whose numbers mean something else: machine code in memory of one's own.",
        """
        import mmap
        if not X86_64:
            raise OSError(errno.ENOSYS, "")
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        if answer < 0:
            raise OSError(-answer, "")
        return answer == os.getpid() and "getpid() by its 32-bit number"
        """,
        control=_built("32-bit calls", "x86_64"),
    ),
    _probe(
        "unshare_by_its_32_bit_number",
        "Make a user namespace by int 0x80: 310, which to a 64-bit filter is process_vm_readv.",
        """
        import mmap
        if not X86_64:
            raise OSError(errno.ENOSYS, "")
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(b"\\x53\\xb8\\x36\\x01\\x00\\x00\\xbb\\x00\\x00\\x00\\x10\\xcd\\x80\\x5b\\xc3")
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        if answer < 0:
            raise OSError(-answer, "")
        return "a user namespace"
        """,
        control=_built("32-bit calls or unprivileged user namespaces", "x86_64"),
    ),
    _probe(
        "call_by_x32_numbers",
        "Make a system call by its x32 number, which a filter for 64 bits does not list.",
        """
        if not X86_64:
            raise OSError(errno.ENOSYS, "")
        return call(0x40000000 + 39, 0) == os.getpid() and "getpid() by its x32 number"
        """,
        control=_built("x32", "x86_64"),
    ),
    _probe(
        "hide_flags_in_the_upper_half",
        "Pass a family of sockets whose upper 32 bits are set: the kernel ignores them, a filter may not.",
        """
        socket = call(41, 198, (1 << 32) | 2, 1, 0)
        return f"internet socket {socket}"
        """,
    ),
    _probe(
        "change_the_local_descriptor_table",
        "Switch to 16- or 32-bit segments (modify_ldt).",
        """
        if not X86_64:
            raise OSError(errno.ENOSYS, "")
        return reached(154, 0, 0, ctypes.create_string_buffer(64), 64)
        """,
        control=_built("modify_ldt", "x86_64"),
    ),
    _probe(
        "talk_to_ports",
        "Get at the machine's input and output ports (iopl).",
        """
        if not X86_64:
            raise OSError(errno.ENOSYS, "")
        return reached(172, 0, 99)
        """,
        control=_built("iopl", "x86_64"),
    ),
)

_SWITCHES = (
    _probe(
        "set_the_core_pattern",
        "Open the pattern by which the kernel starts a program of the host when a process crashes.",
        'return opened(["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe"], os.O_WRONLY)',
        control=_ROOT,
    ),
    _probe(
        "press_sysrq",
        "Open the trigger that reboots the machine. Nothing is written.",
        'return opened(["/proc/sysrq-trigger"], os.O_WRONLY)',
        control=_built("SysRq", "root"),
    ),
    _probe(
        "write_sysfs",
        "Open a switch of the kernel in /sys.",
        """
        import glob
        switches = ("mm/transparent_hugepage/enabled", "rcu_expedited", "uevent_helper", "profiling")
        return opened(["/sys/kernel/" + switch for switch in switches] + glob.glob("/sys/power/state"), os.O_WRONLY)
        """,
        control=_built("a writable /sys", "root"),
    ),
    _probe(
        "leave_the_control_group",
        "Open the member list or the release agent of a control group.",
        """
        import glob
        groups = [path for name in ("cgroup.procs", "release_agent") for path in glob.glob("/sys/fs/cgroup/**/" + name)]
        return opened(glob.glob("/sys/fs/cgroup/cgroup.procs") + groups, os.O_WRONLY)
        """,
        control=_built("writable control groups", "root"),
    ),
    _probe(
        "read_physical_memory",
        "Open the machine's memory.",
        'return opened(["/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore"], os.O_RDONLY)',
        control=_built("/dev/mem or /proc/kcore", "root"),
    ),
    _probe(
        "write_the_kernel_log",
        "Open the kernel's log for writing.",
        'return opened(["/dev/kmsg"], os.O_WRONLY)',
        control=_built("/dev/kmsg", "root"),
    ),
    _probe(
        "open_powerful_devices",
        "Open virtual machines, file systems in user space, network tunnels, loop control.",
        'return opened(["/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/dev/vhost-net"], os.O_RDWR)',
        control=_built("such devices", "root"),
    ),
)

ATTACKS: tuple[Attack, ...] = _NAMESPACES + _SURFACE + _AROUND_THE_FILTER + _SWITCHES
