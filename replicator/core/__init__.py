"""Pure facts and arithmetic: no I/O, no clock, no thread, no log."""
