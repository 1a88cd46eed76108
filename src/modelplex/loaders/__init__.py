"""From a file to a model in memory: one module for each format, found by name or by the ending of the file."""
