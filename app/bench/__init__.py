"""The benchmark of `streaming-inference bench`: servers as subprocesses, a lean load client, and what the servers cost.

Nothing here imports a server. Servers are started as commands, driven over loopback, measured through `/proc`, and stopped
by process id.
"""
