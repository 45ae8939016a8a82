"""``python -m idem_bench``"""

from .cli import main

main()
