"""Requests on buckets and what is set on them: one module for each sub-resource."""
