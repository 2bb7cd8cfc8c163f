"""The registry made durable, and the same on all nodes."""
