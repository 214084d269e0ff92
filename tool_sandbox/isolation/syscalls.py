"""Which system calls sandboxed processes may make, by name, with their numbers on each machine type.

Produces `Policy` values for `seccomp`. The lists allow; whatever they do not name is refused. They were put together
from what CPython 3.11 and glibc 2.36 use, and hold nothing that opens a socket, traces, mounts, makes a namespace,
loads into the kernel or outlives the process. Numbers: asm/unistd_64.h and asm-generic/unistd.h of Linux 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Numbers = Mapping[str, tuple[int | None, int | None]]
"""Name → number on x86_64 and on aarch64; None where the machine has no such call."""


def _table(text: str) -> Numbers:
    """`name:x86_64:aarch64` items, `-` where there is none."""
    rows = (item.split(":") for item in text.split())
    return {name: (_number(x86_64), _number(aarch64)) for name, x86_64, aarch64 in rows}


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)


_FILES = _table(
    """
    read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70
    preadv2:327:286 pwritev2:328:287 open:2:- openat:257:56 creat:85:- close:3:57 close_range:436:436 lseek:8:62
    stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291 access:21:- faccessat:269:48 faccessat2:439:439
    readlink:89:- readlinkat:267:78 getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 mkdir:83:-
    mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35 rename:82:- renameat:264:38 renameat2:316:276 link:86:-
    linkat:265:37 symlink:88:- symlinkat:266:36 truncate:76:45 ftruncate:77:46 fallocate:285:47 chmod:90:-
    fchmod:91:52 fchmodat:268:53 umask:95:166 utime:132:- utimes:235:- futimesat:261:- utimensat:280:88 fsync:74:82
    fdatasync:75:83 flock:73:32 fcntl:72:25 dup:32:23 dup2:33:- dup3:292:24 pipe:22:- pipe2:293:59 ioctl:16:29
    statfs:137:43 fstatfs:138:44 copy_file_range:326:285 sendfile:40:71 fadvise64:221:223 splice:275:76 tee:276:77
    """
)

_MEMORY = _table(
    """
    mmap:9:222 mprotect:10:226 munmap:11:215 mremap:25:216 madvise:28:233 brk:12:214 mincore:27:232 msync:26:227
    membarrier:324:283
    """
)

_PROCESS = _table(
    """
    clone:56:220 exit:60:93 exit_group:231:94 getpid:39:172 getppid:110:173 gettid:186:178 getpgrp:111:-
    getpgid:121:155 getsid:124:156 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getgroups:115:158
    getresuid:118:148 getresgid:120:150 sched_yield:24:124 sched_getaffinity:204:123 sched_getparam:143:121
    sched_getscheduler:145:120 sched_get_priority_max:146:125 sched_get_priority_min:147:126 getpriority:140:141
    prlimit64:302:261 getrlimit:97:163 setrlimit:160:164 getrusage:98:165 times:100:153 uname:63:160 sysinfo:99:179
    getcpu:309:168 set_tid_address:218:96 set_robust_list:273:99 get_robust_list:274:100 rseq:334:293
    arch_prctl:158:- futex:202:98 futex_waitv:449:449 prctl:157:167 getrandom:318:278 capget:125:90
    """
)

_CHILDREN = _table(
    """
    fork:57:- vfork:58:- execve:59:221 wait4:61:260 waitid:247:95 setpgid:109:154 setsid:112:157 kill:62:129
    tkill:200:130
    """
)

_SIGNALS = _table(
    """
    tgkill:234:131 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136
    rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132 restart_syscall:219:128 pause:34:- alarm:37:-
    setitimer:38:103 getitimer:36:102 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108
    timer_getoverrun:225:109 timer_delete:226:111 timerfd_create:283:85 timerfd_settime:286:86
    timerfd_gettime:287:87 nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114
    gettimeofday:96:169 time:201:- signalfd:282:- signalfd4:289:74
    """
)

_WAITING = _table(
    """
    select:23:- pselect6:270:72 poll:7:- ppoll:271:73 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21
    epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284:- eventfd2:290:19
    """
)

_LOCAL_PAIRS = _table(
    """
    socketpair:53:199 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212 sendmmsg:307:269 recvmmsg:299:243
    shutdown:48:210 getsockname:51:204 getpeername:52:205 getsockopt:55:209 setsockopt:54:208
    """
)

_SUPERVISION = _table(
    """
    seccomp:317:277 landlock_create_ruleset:444:444 landlock_add_rule:445:445 landlock_restrict_self:446:446
    pidfd_open:434:434
    """
)


_CODE = {**_FILES, **_MEMORY, **_PROCESS, **_SIGNALS, **_WAITING, **_LOCAL_PAIRS}

NEWEST = 450
"""Largest number that the tables were checked against (set_mempolicy_home_node); later ones do not exist for us."""
PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE = 15, 16, 3
TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX = 0x5401, 0x5413, 0x541B, 0x5421, 0x5451, 0x5450
CLONE_NAMESPACES = 0x7E020000 | 0x00000080
"""CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME."""
CLONE_THREAD = 0x00010000


@dataclass(frozen=True, slots=True)
class Policy:
    """What one kind of process may ask of the kernel."""

    name: str
    allowed: Numbers
    clone_needs: int = 0
    """Flags that `clone` must carry, so that it makes nothing but threads."""
    clone_forbids: int = CLONE_NAMESPACES
    prctl: tuple[int, ...] | None = (PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE)
    """Operations of `prctl`; None allows them all."""
    prlimit: tuple[int, ...] | None = (0,)
    """Processes whose limits may be changed: by default only the caller's own, which is 0."""
    ioctl: tuple[int, ...] = (TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX)


SUPERVISOR = Policy("supervisor", {**_CODE, **_CHILDREN, **_SUPERVISION}, prctl=None, prlimit=None)
"""The process that forks the others and locks them down."""
CODE = Policy("code", {**_CODE, **_CHILDREN})
"""The model's code in namespaces of its own: it may start processes, which all end with the call."""
_UNSEEN_BY_LANDLOCK = ("chmod", "fchmodat", "utime", "utimes", "futimesat", "utimensat")
LONE_CODE = Policy(
    "lone code",
    {name: numbers for name, numbers in _CODE.items() if name not in _UNSEEN_BY_LANDLOCK},
    clone_needs=CLONE_THREAD,
)
"""The model's code where Landlock alone stands between it and the files of its user: no process that could outlive the
call, and none of the calls that change a file by its path and that Landlock does not control."""
