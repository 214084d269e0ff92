"""`python -m cluster` is `steptool`."""

from cluster.cli import main

if __name__ == "__main__":
    main()
