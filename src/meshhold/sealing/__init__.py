"""How plaintext becomes sealed chunks and manifests, and back. Pure: no disk, no clock, no randomness."""
