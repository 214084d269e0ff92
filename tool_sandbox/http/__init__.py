"""What HTTP services of this house share (keys, guards, problem documents), and the sandbox's own HTTP face.

`keys` loads nothing beyond the standard library; everything else here needs FastAPI, which comes with the extra `http`.
"""
