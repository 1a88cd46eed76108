"""From a file to a model in memory: one module for each format, found by name or by the ending of the file.

A loader is a function `load(path, *, trusted=False, **options) -> loaded.Loaded`. It blocks, so it runs in a thread.
The path is a file or a folder that others may be reading and nobody writes; `trusted` says whether code in it may run.
It raises `UnsafeModelFileError` if the file could do harm, and `InvalidModelFileError` if it is damaged or of another
format.
"""
