"""One key of the index as a CASPaxos register: pure promise, accept and lineage rules."""
