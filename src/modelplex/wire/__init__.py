"""Bytes to values and back, for the links between processes. Pure: no sockets, no event loop."""
