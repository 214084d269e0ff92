"""Votes as bytes, for a store that keeps each so that it is cast once."""

from __future__ import annotations

from pydantic import TypeAdapter

from reward_service.judge.judgement import Vote

_VOTE = TypeAdapter(Vote)


def vote_bytes(vote: Vote) -> bytes:
    """JSON of `vote`; equal votes give equal bytes."""
    return _VOTE.dump_json(vote)


def vote_of(kept: bytes) -> Vote:
    """The vote that `vote_bytes` wrote. Raises pydantic's `ValidationError` for anything else."""
    return _VOTE.validate_json(kept)
