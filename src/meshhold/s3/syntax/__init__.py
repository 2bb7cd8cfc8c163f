"""What requests and answers of S3 look like: signatures, bodies, headers, XML. Knows no use-case."""
