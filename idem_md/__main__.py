"""``python -m idem_md``."""

from .cli import main

main()
