"""Streams: what each one is made of, and the readers that follow it."""
