"""Stage phantom: simulate the embedded collection, data/phantom."""

from pathlib import Path

from alzmri import params, terminal
from alzmri.phantom.simulate import generate


def main() -> None:
    phantom = params.load().phantom
    with terminal.progress("simulating subjects") as progress:
        generate(
            Path("data/phantom"),
            subjects=phantom.subjects,
            slices=phantom.slices,
            difficulty=phantom.difficulty,
            seed=phantom.seed,
            progress=progress,
        )


if __name__ == "__main__":
    terminal.start(main)
