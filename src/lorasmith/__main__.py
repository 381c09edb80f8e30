"""`python -m lorasmith`, so that launchers which start modules can start it."""

from lorasmith.cli.main import main

if __name__ == "__main__":
    main()
