"""`python -m hitless` is `hitless`."""

from hitless.cli.main import main

main()
