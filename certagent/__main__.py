"""`python -m certagent`."""

from certagent.cli import main

main()
