"""The line of a key is found where a person would look."""

from __future__ import annotations

from replicator.policy.problems import lines_of

TEXT = """\
cluster = "frk"

[source]
conninfo = "x"  # [not a table]
[[store]]
name = "a"
[[store]]
  name = "b"
tolerance.x = 1
[verify]
[[verify.probe]]
sql = '''
SELECT 1
'''
[[verify.probe]]
"quoted" = 1
"""


def test_lines_of_keys_and_tables() -> None:
    """Tables in arrays are counted, dotted and quoted keys are found, headers count for what they hold."""
    lines = lines_of(TEXT)
    assert {place: lines[place] for place in lines if place[0] in {"cluster", "source"}} == {
        ("cluster",): 1,
        ("source",): 3,
        ("source", "conninfo"): 4,
    }
    assert (lines["store", 0], lines["store", 1, "name"], lines["store", 1, "tolerance", "x"]) == (5, 8, 9)
    assert (lines["verify", "probe", 0, "sql"], lines["verify", "probe", 1, "quoted"]) == (12, 16)
