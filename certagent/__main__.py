"""`python -m certagent`."""

from certagent.cli.main import main

main()
