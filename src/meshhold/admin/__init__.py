"""The operator door: a local control socket."""
