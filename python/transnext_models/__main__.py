"""``python -m transnext_models`` is the command ``transnext``."""

from .cli import main

if __name__ == "__main__":
    main()
