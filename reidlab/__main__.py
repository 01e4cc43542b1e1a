"""`python -m reidlab` is the `reidlab` command."""

from reidlab.cli import app

if __name__ == "__main__":
    app()
