"""Version 1 of the protocol: generated messages and stubs. `make proto` writes them."""
