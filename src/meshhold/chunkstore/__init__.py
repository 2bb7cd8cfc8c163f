"""Where sealed chunks rest: a contract and its adapters."""
