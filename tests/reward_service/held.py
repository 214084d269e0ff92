"""A signal that is held until a file says so: a test decides how long requests last, also in other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PLUGIN = '''
import asyncio
from pathlib import Path

class Held:
    """1 for every step, but not before a file says so."""
    def __init__(self, settings):
        self.place = Path(settings["place"])
        self.fingerprint = "held 1"
        self.range = (0.0, 1.0)
    async def measure(self, item):
        (self.place / f"arrived-{item.id}").touch()
        while not (self.place / "released").exists():
            await asyncio.sleep(0.01)
        return [1.0] * len(item.steps)
'''


class HeldSignal:
    """The package of the signal, installed in a directory that belongs on the path of whoever scores by it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "probe_held.py").write_text(PLUGIN)
        installed = place / "probe_held-1.0.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-held\nVersion: 1.0\n")
        (installed / "entry_points.txt").write_text("[steptool.signals]\nheld = probe_held:Held\n")
        self.settings: dict[str, Any] = {"kind": "plugin", "name": "held", "settings": {"place": str(place)}}

    def arrived(self) -> int:
        """How many trajectories are, or were, held."""
        return len(list(self.place.glob("arrived-*")))

    def release(self) -> None:
        (self.place / "released").touch()
