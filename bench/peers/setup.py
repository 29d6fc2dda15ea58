"""Makes the peers' virtual environments: `python -m bench.peers.setup [NAME ...]`; done ones are kept."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv

from bench.peers import FOLDER, REQUIREMENTS, python_of


def main() -> int:
    """Install the peers that are named, or all; return how many failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.setup", description=__doc__)
    parser.add_argument(
        "peers", nargs="*", metavar="NAME", help=f"of {', '.join(REQUIREMENTS)}; default: all"
    )
    names = parser.parse_args().peers or [*REQUIREMENTS]
    unknown = [name for name in names if name not in REQUIREMENTS]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(REQUIREMENTS)}")
    return sum(not _install(name) for name in names)


def _install(name: str) -> bool:
    """Install one peer; without its interpreter a folder does not count as installed."""
    if python_of(name).exists():
        print(f"{name}: is there")
        return True
    print(f"{name}: installing {' '.join(REQUIREMENTS[name])}", flush=True)
    folder = FOLDER / name
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run([folder / "bin" / "pip", "install", "--quiet", *REQUIREMENTS[name]], check=False)
    if done.returncode:
        print(f"{name}: pip failed with {done.returncode}; it stays out of the comparison")
        (folder / "bin" / "python").unlink()
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
