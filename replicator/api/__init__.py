"""The daemon's HTTP interface and its client: health, status, metrics. Reading only.

It asks `Answers` and knows nothing of the daemon behind it.
"""
