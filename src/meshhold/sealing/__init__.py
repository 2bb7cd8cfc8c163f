"""Cutting, sealing and describing bytes; no I/O."""
