"""docs/options.md tells every setting as it is."""

from __future__ import annotations

from pathlib import Path

from headrace_server.config import OPTIONS
from headrace_server.options import PREFIX, Option

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def row(option: Option) -> str:
    """Return the row that the page is to have."""
    names = [] if option.secret else [option.flag]
    if not option.variable.startswith(PREFIX):
        names.append(option.variable)
    return f"| {', '.join(f'`{name}`' for name in names)} | {default(option)} | {option.help} |"


def default(option: Option) -> str:
    match option.default:
        case bool():
            return "on" if option.default else "off"
        case tuple():
            return ", ".join(f"`{item}`" for item in option.default)
        case "":
            return ""
        case float():
            return f"`{option.default:g}`"
    return f"`{option.default}`"


def test_every_setting_has_its_row() -> None:
    shown = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    expected = [row(option) for option in OPTIONS]
    missing = [line for line in expected if line not in shown]
    assert not missing, "these rows belong into docs/options.md:\n" + "\n".join(missing)
    assert sorted(shown) == sorted(expected), "docs/options.md has rows of no setting"
