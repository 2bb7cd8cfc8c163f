"""MeshHold: an encrypted peer-to-peer object store that speaks S3 on loopback."""

__version__ = "0.1.0"
