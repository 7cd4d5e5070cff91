"""PostgreSQL from outside: the replication protocol, plain SQL, and the server's own programs.

The only package that touches libpq. It never writes into a live data directory and never decides what to keep.
"""
