"""How the demo tells what it does: steps, checks that held or did not, figures, commands to try."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from headrace_cli.console import table


class Telling:
    """Prints the demo and remembers whether every check held."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._step = 0
        self.held = 0
        self.failed = 0

    def step(self, title: str) -> None:
        """Begin a step."""
        self._step += 1
        self._out.print(Text(f"\n{self._step}  {title}", style="bold"))

    def check(self, held: bool, text: str) -> None:
        """Tell whether something that must hold does."""
        if held:
            self.held += 1
        else:
            self.failed += 1
        self._print(Text.assemble(("   ✓ ", "green") if held else ("   ✗ ", "bold red"), text))

    def note(self, text: str) -> None:
        """Tell something that is neither good nor bad."""
        self._print(Text(f"   · {text}"))

    def figures(self, rows: Iterable[tuple[str, str]]) -> None:
        """Show what was measured."""
        self._out.print()
        self._out.print(table(("Measured", ""), list(rows)))

    def commands(self, commands: Sequence[Sequence[str]]) -> None:
        """Show commands that can be copied as they stand."""
        self._out.print("\nTry these in another terminal; Ctrl-C stops everything:")
        for arguments in commands:
            self._print(Text(f"   {shlex.join((program(), *arguments))}", style="cyan"))

    def verdict(self) -> None:
        """Say how it went."""
        if self.failed:
            self._print(
                Text(f"\n{self.failed} of {self.held + self.failed} checks did not hold", style="bold red")
            )
        else:
            self._print(Text(f"\nall {self.held} checks held", style="bold green"))

    def _print(self, text: Text) -> None:
        self._out.print(text, soft_wrap=True)


def program() -> str:
    """Return how this `headrace` is called from here."""
    script = Path(sys.executable).with_name("headrace")
    found = shutil.which("headrace")
    if found and Path(found).resolve() == script.resolve():
        return "headrace"
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)
