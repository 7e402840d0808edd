"""`python -m emage` runs the command `emage`."""

from emage.commands import main

if __name__ == "__main__":
    main()
