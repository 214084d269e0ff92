"""What HTTP services of this house share (keys, guards, problem documents), and the sandbox's own HTTP face.

`keys` and `strict_json` load nothing beyond the standard library; much else here needs FastAPI, which comes with the
extra `http`.
"""
