"""`python -m headrace_cli` is `headrace`, for whoever has the interpreter at hand and not the script."""

from headrace_cli.main import main

main()
