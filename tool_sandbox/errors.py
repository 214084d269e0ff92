"""Everything that this floor raises. The model's errors are not here: they are statuses of a `ToolResult`.

SandboxError
├── UnknownToolset          no toolset of that name
├── InvalidToolset          a toolset was found and is not usable
├── NoSuchTask              a split or level that the toolset does not have
├── NoDemonstration         nobody knows a way through the task
├── CorruptTask             a task whose payload this version cannot rebuild
├── IsolationUnavailable    the machine cannot run isolated code
├── InvalidTool             a tool, its schema or a file that declares it cannot be used
├── InvalidKeys             the list of API keys cannot be read, or is missing where it is needed
├── LeaseLost               the session behind a lease is gone
├── ForkDiverged            a forked session did not reach the state of its snapshot
├── AuditFailed             a call could not be recorded
├── AuditTampered           an audit log is not as it was left
├── AuditUnreadable         an audit log or its key cannot be read
├── SandboxFull             (retryable) every session is taken
└── SandboxUnavailable      (retryable) no sandbox answered

Each exception carries one message and nothing else, so that it survives pickling between Ray workers.
"""

from __future__ import annotations


class SandboxError(Exception):
    """Root of this floor's errors."""


class Retryable:
    """Marks errors that may pass when the same request is made again."""


class UnknownToolset(SandboxError, LookupError):
    """No toolset is registered under the name."""


class InvalidToolset(SandboxError, TypeError):
    """A registered factory does not give a toolset, or a name is taken."""


class NoSuchTask(SandboxError, ValueError):
    """The toolset has no tasks for the split and level."""


class NoDemonstration(SandboxError, LookupError):
    """Nobody knows a way through the task, so that no policy can show one."""


class CorruptTask(SandboxError, ValueError):
    """The payload of a task cannot be turned into a world."""


class IsolationUnavailable(SandboxError, RuntimeError):
    """Isolated code cannot run on this machine."""


class LeaseLost(SandboxError, LookupError):
    """The lease expired, was closed, or its sandbox died."""


class InvalidTool(SandboxError, ValueError):
    """A tool, its schema, or the file or server that declares it cannot be used as it is."""


class InvalidKeys(SandboxError, ValueError):
    """The API keys of a service cannot be read, or are missing where they are needed."""


class ForkDiverged(SandboxError, RuntimeError):
    """A session that was forked by repeating its calls came to another state: something in it is not deterministic."""


class AuditFailed(SandboxError, RuntimeError):
    """The audit log cannot be written: the disk is full, or another writer holds the file."""


class AuditTampered(SandboxError, RuntimeError):
    """The audit log that should be continued is not as it was left."""


class AuditUnreadable(SandboxError, ValueError):
    """An audit log or its key cannot be read."""


class SandboxFull(SandboxError, Retryable):
    """Every session that the sandbox may hold is open."""


class SandboxUnavailable(SandboxError, Retryable):
    """No sandbox answered before the deadline."""
