"""Protocols of other systems, spoken by replicas: what clients of those send, as arrays and calls of user code."""
