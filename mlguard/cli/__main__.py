"""``python -m mlguard.cli``, where the console script is not on the path."""

from mlguard.cli import main

main()
