"""`python -m sslcut` is the command line."""

from sslcut.cli import main

main()
