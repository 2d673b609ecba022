"""The streaming service as a client sees it: requests in, streams of frames out.

Nothing below this package imports ray, torch or transformers; what the service needs of them is in the
protocols of `app.ports`.
"""
