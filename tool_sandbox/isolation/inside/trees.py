"""Counting and removing what hostile code left in a folder: trees deeper than a path is long, closed folders, links.

The standard library's walks recurse once for each level, and address files by their whole path; both end at depths
that a program reaches in a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable

UNCOUNTABLE = 1 << 62
"""Files or bytes of a tree that cannot be looked into."""


def disk_of_own(folder: str) -> tuple[int, int]:
    """Files and bytes on the file system of `folder`, where it belongs to the sandbox alone."""
    usage = os.statvfs(folder)
    return usage.f_files - usage.f_ffree, (usage.f_blocks - usage.f_bfree) * usage.f_frsize


def disk_of_shared(folder: str) -> tuple[int, int]:
    """Files and bytes beneath `folder`, counted one by one; `UNCOUNTABLE` where it is too deep or closed."""
    files = size = 0
    folders = [folder]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    files += 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        # The code removes what we count: the next look tells.
        return files, size
    except OSError:
        return UNCOUNTABLE, UNCOUNTABLE
    return files, size


def empty(folder: str) -> bool:
    """Remove all that is in the folder. Whether it is empty now.

    Folders within folders are first moved to the top, so that no path grows longer than two names.
    """
    while entries := os.listdir(folder):
        removed = [_remove(folder, f"{folder}/{name}") for name in entries]
        if not any(removed):
            return False
    return True


def _remove(top: str, path: str) -> bool:
    """Remove a file, or a folder whose own folders move to the top. Whether anything was done."""
    if os.path.islink(path) or not os.path.isdir(path):
        return _done(os.unlink, path)
    moved = False
    if _done(os.chmod, path, 0o700):
        for name in os.listdir(path):
            moved |= _move_or_remove(top, f"{path}/{name}")
    return _done(os.rmdir, path) or moved


def _move_or_remove(top: str, path: str) -> bool:
    if os.path.islink(path) or not os.path.isdir(path):
        return _done(os.unlink, path)
    # A folder can be moved only by who may write into it.
    return _done(os.chmod, path, 0o700) and _done(os.rename, path, f"{top}/{os.urandom(8).hex()}")


def _done(operation: Callable[..., None], *arguments: object) -> bool:
    try:
        operation(*arguments)
    except OSError:
        return False
    return True
