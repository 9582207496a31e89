"""`python -m detector` is `offnominal`."""

from detector.cli import main

main()
