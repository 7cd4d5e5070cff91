"""`python -m replicator`: the same as the console script."""

from replicator.cli.main import main

if __name__ == "__main__":
    main()
