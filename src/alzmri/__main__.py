"""``python -m alzmri``."""

from alzmri.cli import main

main()
