"""``python -m bifrost`` is the command ``bifrost``."""

from bifrost.cli import main

main()
