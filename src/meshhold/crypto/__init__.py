"""Hashes, ciphers, keys and identities: the only room that imports crypto libraries."""
