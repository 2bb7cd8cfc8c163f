"""The use-cases: objects, listings, uploads, buckets, access."""
