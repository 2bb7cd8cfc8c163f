"""What two nodes say to each other, as decisions: bytes in, bytes out; no sockets, tasks, clock or randomness."""
