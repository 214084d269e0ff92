"""Own tasks from a JSONL file: one task a line, with tools from Python functions, a toolset or an MCP server.

The registry reaches it through names such as `jsonl:tasks.jsonl`; a package that ships its tasks makes a `JsonlToolset`
with a name of its own. A file of tasks names code that is run in this process: it is trusted like code.
"""

from __future__ import annotations

from tool_sandbox.jsonl.toolset import JsonlToolset

__all__ = ["JsonlToolset"]
