"""`python -m modelplex.runtime`: how the local engine starts a process."""

from modelplex.runtime.child import main

main()
