"""The store of the reward service: every score and every judge vote is computed once, and kept.

`opening.open_store` is the way in. `once` (results by content), `idempotency` (repeated requests) and `batches` (long
jobs) are what it keeps. Only `once`, `keys`, `config`, `timing` and `errors` load no database library. Knows nothing of
signals, HTTP or Ray.
"""
