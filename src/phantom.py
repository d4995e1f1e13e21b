"""Stage phantom: simulate the embedded collection, data/phantom."""

from pathlib import Path

from alzmri import params, terminal
from alzmri.phantom.simulate import generate


def main() -> None:
    generate(Path("data/phantom"), **params.load().phantom.model_dump())


if __name__ == "__main__":
    terminal.start(main)
