"""MCP servers as toolsets: over standard streams inside the sandbox, or over streamable HTTP.

`config` loads anywhere; `toolset` needs the package `mcp` (extra `mcp`). The floor calls servers and is none itself.
"""
