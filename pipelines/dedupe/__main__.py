"""`python -m pipelines.dedupe CURATED --index DIR --output DIR`."""

from pipelines.dedupe import cli

if __name__ == "__main__":
    cli.main()
