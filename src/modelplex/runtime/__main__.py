"""`python -m modelplex.runtime`: how the local engine starts a process."""

from modelplex.runtime.process import main

main()
