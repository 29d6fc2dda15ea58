"""The `headrace` command. It imports every other package, and nothing imports it."""
