"""Frozen values and merge laws; no I/O, no clock."""
