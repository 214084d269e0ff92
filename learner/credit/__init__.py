"""Credit: from the rewards of steps to advantages. One file an estimator; docs/credit.md compares them."""

from learner.credit.assign import assign_credit
from learner.credit.credited import CreditedTrajectory, CreditSummary, StateAt, TokenCredit, summarise, uniform_groups

__all__ = [
    "CreditSummary",
    "CreditedTrajectory",
    "StateAt",
    "TokenCredit",
    "assign_credit",
    "summarise",
    "uniform_groups",
]
