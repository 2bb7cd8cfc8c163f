"""Copies that are missing or in the wrong place, put right."""
