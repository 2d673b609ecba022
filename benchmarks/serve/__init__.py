"""The benchmark of `streaming-inference bench serve`: servers as subprocesses, a load client, and what the servers cost.

No module here imports a server. Servers are started as commands, loaded over loopback, measured through `/proc`, and stopped
by process id.
"""
