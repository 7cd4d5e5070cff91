"""`check`: can it work? One subject, one file; each looks and says, none changes anything.

`examine` runs them all; a subject that fails is a finding and holds up no other.
"""
