"""Requests on objects and uploads: one module for each family of verbs."""
