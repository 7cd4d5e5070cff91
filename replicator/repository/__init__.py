"""Everything kept of one cluster: names, sealed objects, documents, catalog (docs/format.md)."""
