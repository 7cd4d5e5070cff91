"""The command line: one verb, one file, each parse → compose → call → render. No logic lives here."""
