"""The data plane of Modelplex, measured beside that of other servers."""
