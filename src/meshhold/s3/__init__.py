"""The S3 door: HTTP and XML in, use-cases out."""
