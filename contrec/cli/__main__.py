"""python -m contrec.cli"""

from contrec.cli import main

main()
