"""The command line; each command is a module with `parser` and `main`."""
