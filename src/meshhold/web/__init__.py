"""The door for browsers: buckets as web sites, without signatures, read only. One host name for each bucket."""
