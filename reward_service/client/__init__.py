"""The way to the reward service over HTTP: chunks, retries, one deadline, one reward version.

`RewardClient` is for an event loop, `SyncRewardClient` for threads; both are shells around the same `Exchange`. Loads
neither torch nor vLLM nor Ray nor FastAPI.
"""

from reward_service.client.aio import RewardClient
from reward_service.client.blocking import SyncRewardClient
from reward_service.client.source import RewardSource

__all__ = ["RewardClient", "RewardSource", "SyncRewardClient"]
