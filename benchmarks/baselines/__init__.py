"""Servers to compare with: each the way its own documentation teaches it, all with one source of tokens."""
