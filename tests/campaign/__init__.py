"""Random load on a real cluster, random things done to its processes, and a check that no stream shows it.

`make campaign` runs it; docs/reliability.md says what it found.
"""
