"""`python -m pipelines.curate`."""

from pipelines.curate.cli import main

if __name__ == "__main__":
    main()
