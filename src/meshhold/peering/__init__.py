"""Links to other nodes: who is connected, what they ask of each other. Runs the wire's decisions on Trio."""
