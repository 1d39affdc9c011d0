"""`python -m app`: the same as the command `registry-sync`."""

from app.cli.main import main

if __name__ == "__main__":
    main()
