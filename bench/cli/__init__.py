"""The command line: one module per command group. Only this package knows click and rich."""
