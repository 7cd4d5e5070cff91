"""How every cluster stands: one value for the terminal, the API and the metrics.

Owns its model and its gathering. It changes nothing, and it never opens a sealed object.
"""
