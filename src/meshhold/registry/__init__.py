"""Signed last-writer records of vaults, aliases, access keys and grants; no I/O."""
