"""Everything that can go wrong with the store. Each error pickles; none shows a credential or what was stored.

StoreError
├── StoreMisconfigured   the settings lead to no database
├── StoreTooNew          a newer version of this program has written the database
├── StoreUnavailable     the database is unreachable, locked, full or broken now; trying again later may help
├── ResultsLate          results were not there at the deadline
├── BatchNotFound        no such job, or another caller's
└── TooManyBatches       the caller has as many open jobs as it may have
"""

from __future__ import annotations

from reward_service.errors import RewardError


class StoreError(RewardError):
    """Root of the store's errors."""


class StoreMisconfigured(StoreError):
    """The settings lead to no database; another start with the same settings changes nothing."""


class StoreTooNew(StoreError):
    """The database has a revision that this program does not know."""

    def __init__(self, store: str, found: str, newest: str) -> None:
        super().__init__(store, found, newest)
        self.store = store
        self.found = found
        self.newest = newest

    def __str__(self) -> str:
        return (
            f"store {self.store}: its schema has revision {self.found!r}, the newest known here is {self.newest!r}; "
            "run the version of StepTool that wrote it or a newer one, or name another database"
        )


class StoreUnavailable(StoreError):
    """The database cannot be used now. Infrastructure, not the request's fault."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.store = store
        self.reason = reason

    def __str__(self) -> str:
        return f"store {self.store}: {self.reason}; see that it runs, can be reached and has room, then try again"


class ResultsLate(StoreError):
    """The deadline came before the results. What was computed until then is kept."""

    def __init__(self, wanted: int, deadline_seconds: float) -> None:
        super().__init__(wanted, deadline_seconds)
        self.wanted = wanted
        self.deadline_seconds = deadline_seconds

    def __str__(self) -> str:
        late = f"results: not all {self.wanted} were there after {self.deadline_seconds:g} s"
        return f"{late}; ask again, or allow more time"


class BatchNotFound(StoreError):
    """There is no such job for this caller; it may have expired."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id

    def __str__(self) -> str:
        return f"batch {self.batch_id!r}: not found; it never was, is another caller's, or has expired"


class TooManyBatches(StoreError):
    """The caller has as many open jobs as it may have."""

    def __init__(self, found: int, most: int) -> None:
        super().__init__(found, most)
        self.found = found
        self.most = most

    def __str__(self) -> str:
        return f"batches: {self.found} of yours are open, at most {self.most} may be; wait for one, or cancel one"
