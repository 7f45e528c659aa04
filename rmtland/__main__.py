"""`python -m rmtland`, the command `rmtland` where it is not on the path."""

from rmtland.cli import main

if __name__ == "__main__":
    main()
