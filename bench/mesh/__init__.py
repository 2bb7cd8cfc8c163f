"""Measures what goes between two nodes: MeshHold's session beside TLS 1.3 and libp2p, on loopback."""
