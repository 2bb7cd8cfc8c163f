"""The registers of an index on several replicas: rounds, reads, lists."""
