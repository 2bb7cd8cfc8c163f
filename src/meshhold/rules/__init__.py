"""What is set on a bucket, and what follows from it: one module for each aspect. Knows no clock, no XML and no HTTP."""
