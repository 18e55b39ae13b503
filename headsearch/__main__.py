"""`python -m headsearch`: the command line."""

from headsearch.cli import main

if __name__ == "__main__":
    main()
