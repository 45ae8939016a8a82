"""``python -m idem_md.cli``."""

from .main import main

main()
