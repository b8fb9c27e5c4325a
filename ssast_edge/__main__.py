"""`python -m ssast_edge` is the command `ssast-edge`."""

from ssast_edge.cli import main

main(prog_name="ssast-edge")
