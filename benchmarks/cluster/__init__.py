"""A Ray cluster of three nodes on this machine: Modelplex on it beside one machine, and beside Ray Serve."""
