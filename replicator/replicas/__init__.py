"""Replicas: standbys made from the repository, asked how they are, and taken away again.

Owns their directories, their slots and what their state means. Never reads the primary's data, and never touches a
server that it did not make.
"""
