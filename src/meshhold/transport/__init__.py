"""How bytes reach another machine: streams between addresses. Knows no message and no node."""
