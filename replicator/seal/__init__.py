"""Sealing: compress, encrypt, authenticate, sign; and the reverse (docs/format.md, sections 3 to 5).

The only package that touches the cryptography library. It does no I/O and knows no store.
"""
