"""What runs inside the sandbox, under the system's own Python: standard library only, nothing else of this package.

The modules reach the sandbox as source text (see `worker`), because its user cannot read this package's files.
They import little, and types only for the type checker: an idle session is mostly made of what is loaded here.
"""
