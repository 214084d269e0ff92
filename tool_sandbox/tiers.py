"""The tiers of this process: every tool that is a program runs where its declared trust says.

Owns `Tiers`, which starts a sandbox when a tool first needs it, and the one that the process uses. A pool actor chooses
the settings once its isolation was verified (see `guard`); without that, isolated tools verify before they run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tool_sandbox.config import LanguageConfig, RemoteConfig, SandboxConfig
from tool_sandbox.errors import InvalidTool
from tool_sandbox.isolation.python_tool import PYTHON
from tool_sandbox.sandbox import CodeTool, Sandbox
from tool_sandbox.tools import IsolationLevel, ToolCall, ToolResult, Trust


@dataclass(frozen=True, slots=True)
class TierSettings:
    """What the sandboxes of a process are started with."""

    isolation: SandboxConfig = field(default_factory=SandboxConfig)
    level: IsolationLevel | None = None
    """As verified; None verifies before anything isolated runs."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    remote: RemoteConfig | None = None
    """None where no service is known: tools of that trust are refused."""


class Tiers:
    """Sandboxes by their tools. Safe to use from many threads."""

    def __init__(self, settings: TierSettings) -> None:
        self._settings = settings
        self._level = settings.level
        self._sandboxes: dict[tuple[int, ...], tuple[Sequence[CodeTool], Sandbox]] = {}
        self._lock = threading.Lock()

    @property
    def settings(self) -> TierSettings:
        return self._settings

    def sandbox(self, tools: Sequence[CodeTool]) -> Sandbox:
        """Where these tools run; they are of one trust. The same tools have the same sandbox.

        Raises:
            InvalidTool: the trust has no tier for programs, or no service is configured for it.
            IsolationUnavailable: the tier cannot be had on this machine.
        """
        key = tuple(id(tool) for tool in tools)
        with self._lock:
            if key not in self._sandboxes:
                # The tools are kept too: an id belongs to a living object.
                self._sandboxes[key] = (tools, self._start(tools))
            return self._sandboxes[key][1]

    def close(self) -> None:
        """End every sandbox. Safe to call twice."""
        with self._lock:
            sandboxes, self._sandboxes = self._sandboxes, {}
        for _, sandbox in sandboxes.values():
            sandbox.close()

    def _start(self, tools: Sequence[CodeTool]) -> Sandbox:
        starters: dict[Trust, Callable[[Sequence[CodeTool]], Sandbox]] = {
            Trust.LANGUAGE: self._language,
            Trust.ISOLATED: self._isolated,
            Trust.STATEFUL: self._stateful,
            Trust.REMOTE: self._remote,
        }
        trust = tools[0].spec.trust
        if trust not in starters:
            names = ", ".join(tool.spec.name for tool in tools)
            raise InvalidTool(
                f"tools {names}: programs do not run in the tier {trust.value!r}; choose one of "
                f"{', '.join(each.value for each in starters)}"
            )
        return starters[trust](tools)

    # Each tier is imported when it is first needed: some of their packages are extras.

    def _language(self, tools: Sequence[CodeTool]) -> Sandbox:
        from tool_sandbox.language import LanguageSandbox

        return LanguageSandbox(self._settings.language, tools)

    def _isolated(self, tools: Sequence[CodeTool]) -> Sandbox:
        from tool_sandbox.isolation.isolated import IsolatedSandbox

        return IsolatedSandbox(tools, self._settings.isolation, self._verified())

    def _stateful(self, tools: Sequence[CodeTool]) -> Sandbox:
        from tool_sandbox.isolation.stateful import StatefulSandbox

        return StatefulSandbox(tools, self._settings.isolation, self._verified())

    def _remote(self, tools: Sequence[CodeTool]) -> Sandbox:
        from tool_sandbox.remote import RemoteSandbox

        if self._settings.remote is None:
            raise InvalidTool("remote tools: no service is configured; set sandbox.remote.url")
        return RemoteSandbox(self._settings.remote, tools)

    def _verified(self) -> IsolationLevel:
        if self._level is None:
            from tool_sandbox.attacks.canaries import verify

            self._level = verify(self._settings.isolation).level
        return self._level


_current = Tiers(TierSettings())


def use_tiers(settings: TierSettings) -> None:
    """Run the tools of this process with these settings from now on.

    Sandboxes that were started with others are ended, and their sessions with them: a level that holds no more must not
    go on serving. Blocks until the calls in them have ended.
    """
    global _current
    if settings != _current.settings:
        before, _current = _current, Tiers(settings)
        before.close()


def process_tiers() -> Tiers:
    """The tiers that tools of this process run in."""
    return _current


def run_python(call: ToolCall) -> ToolResult:
    """Run one call of the `python` tool in a session of its own.

    Raises:
        IsolationUnavailable: this machine cannot isolate code; nothing was run.
    """
    session = process_tiers().sandbox([PYTHON]).open()
    try:
        return session.call(call)
    finally:
        session.close()
