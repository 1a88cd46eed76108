"""Serve many models of one kind from few replicas. Users import `from modelplex import serve`."""

__version__ = "0.1.0"
