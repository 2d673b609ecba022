"""Servers to compare with: each built as its own documentation teaches, all with the same source of tokens.

`empty_application` has no tokens: it is what a start of Serve costs.
"""
