"""What Serve is told of a replica's health."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reward_service.assembly import Assembly, assembled
from reward_service.errors import ScorerUnavailable
from reward_service.scoring import Recipe
from reward_service.serve_app import RewardReplica
from reward_service.store.errors import StoreUnavailable
from reward_service.store.opening import Store
from tests.reward_service.judges import config
from tests.reward_service.kept import kept_in


async def lost(*_: object) -> None:
    raise ScorerUnavailable("it is gone")


class LostJudge:
    """Answers nobody."""

    async def told(self, item: Any) -> Any:
        raise ScorerUnavailable("judge: its deployment is gone")


async def asked(assembly: Assembly) -> None:
    """What Serve asks of a replica; a whole one would be closed by Python's collector, outside of any event loop."""
    replica: Any = RewardReplica.func_or_class
    await replica.check_health(SimpleNamespace(_assembly=assembly))


async def test_a_replica_is_well_while_its_rules_and_its_store_answer(tmp_path, monkeypatch):
    async def unreachable(store: Store) -> None:
        raise StoreUnavailable("sqlite rewards.db", "disk I/O error")

    async with assembled(kept_in(tmp_path)) as assembly:
        await asked(assembly)
        with monkeypatch.context() as broken:
            broken.setattr(Recipe, "score", lost)
            with pytest.raises(ScorerUnavailable):
                await asked(assembly)
        monkeypatch.setattr(Store, "check", unreachable)
        with pytest.raises(StoreUnavailable):
            await asked(assembly)


async def test_a_lost_judge_makes_no_replica_ill(tmp_path):
    judged = kept_in(tmp_path, signals={"contribution": {"kind": "judge"}}, judge=config().model_dump(mode="json"))
    async with assembled(judged, judge=LostJudge()) as assembly:
        await asked(assembly)
        with pytest.raises(ScorerUnavailable):
            await assembly.service.check()
