"""Replicas of an index made equal, filled and exchanged."""
