"""Where register rows and registry records rest: a contract and its adapter."""
