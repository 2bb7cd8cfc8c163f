"""The HTTP of the door: connections, heads, the server. Knows no S3."""
