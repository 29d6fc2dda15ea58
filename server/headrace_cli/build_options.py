"""The flags of `headrace build`, in the groups that people meet them in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from headrace_engines.build import BuildOptions
    from headrace_engines.data.options import Pixels
    from headrace_engines.importers.importer import ImportOptions

_INPUT_PARTS: Final = 3

_DATA: Final = (
    click.option(
        "--data", metavar="FILE|FOLDER|FUNCTION",
        help="Rows like those that will be asked about: .npz, .npy, .csv, .parquet, a folder of pictures, or "
        "file.py:function. Without it they are made up.",
    ),
    click.option(
        "--labels", metavar="NAME|FILE",
        help="What is right for each row: a column, a key of the .npz, or a .npy file.",
    ),
    click.option(
        "--columns", multiple=True, metavar="INPUT=COLUMN,…",
        help="Which columns of a table an input takes, or which array, where their names do not tell. "
        "May be given again.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True,
        help="Decides which rows are held out, and made up; of no effect on `digits`, which has its own.",
    ),
)  # fmt: skip

_PIXELS: Final = (
    click.option(
        "--scale", type=float, default=1 / 255, metavar="NUMBER",
        help="What a picture's pixels are multiplied by: (pixel * scale - mean) / std. [default: 1/255]",
    ),
    click.option("--mean", default="0", show_default=True, metavar="NUMBER,…", help="One, or one a channel."),
    click.option("--std", default="1", show_default=True, metavar="NUMBER,…", help="One, or one a channel."),
    click.option(
        "--resize", type=click.IntRange(1), metavar="PIXELS",
        help="Length of a picture's shorter side before its middle is cut out. [default: as the model needs]",
    ),
    click.option(
        "--uint8", is_flag=True, help="Put the scaling into the model, which then takes pixels in UINT8."
    ),
    click.option(
        "--channels-last", is_flag=True,
        help="With --uint8: let the model take [height, width, channels], as pictures are read.",
    ),
)  # fmt: skip

_BUILD: Final = (
    click.option(
        "--recipe", "recipes", multiple=True, default=("auto",), show_default=True, metavar="NAME",
        help="How to compress it. May be given again; `auto` tries what suits the targets.",
    ),
    click.option(
        "--target", "targets", multiple=True, default=("cpu",), show_default=True, metavar="NAME",
        help="What it is to run on: cpu, tensorrt. May be given again.",
    ),
    click.option(
        "--task", type=click.Choice(("classification", "regression")),
        help="What the model does, where neither labels nor outputs tell.",
    ),
    click.option(
        "--metric", metavar="NAME",
        help="accuracy, top-K, f1, auc, rmse, r2, agreement or fidelity. [default: the task's]",
    ),
    click.option(
        "--max-loss", type=float, metavar="SHARE",
        help="How much an artefact may lose against FP32, in the metric's unit. [default: 0.01]",
    ),
    click.option(
        "--max-batch-size", type=click.IntRange(1), default=64, show_default=True,
        help="The largest batch that will be served, and is measured.",
    ),
)  # fmt: skip

_IMPORT: Final = (
    click.option(
        "--trust", is_flag=True,
        help="Open the file even if that can execute code that its author put in it.",
    ),
    click.option(
        "--factory", metavar="FILE.PY:FUNCTION", default="",
        help="Function that returns the PyTorch module, for a file that holds weights alone.",
    ),
    click.option(
        "--input", "inputs", multiple=True, metavar="NAME:DTYPE:DIMS",
        help="An input that the file does not tell of, as x:float32:3,224,224; dims are those of a row. "
        "May be given again.",
    ),
    click.option(
        "--opset", type=int, default=17, show_default=True,
        help="Least version of ONNX's operators to write, 13 to 23.",
    ),
    click.option(
        "--import-timeout-secs", type=click.FloatRange(0, min_open=True), default=1800, show_default=True,
        metavar="SECONDS",
        help="How long opening the file, converting it, or asking it for answers may take.",
    ),
    click.option(
        "--import-memory-gib", type=click.FloatRange(0, min_open=True), metavar="GIB",
        help="How much memory that may take. [default: what is available, less an eighth of the machine's]",
    ),
)  # fmt: skip

_Command = Callable[..., Any]


def data_options(command: _Command) -> _Command:
    """Add the flags that tell which rows a model is calibrated and judged with."""
    return _with((*_DATA, *_PIXELS), command)


def build_options(command: _Command) -> _Command:
    """Add the flags that tell what is made, and how good it has to be."""
    return _with(_BUILD, command)


def import_options(command: _Command) -> _Command:
    """Add the flags that tell what a source's file does not."""
    return _with(_IMPORT, command)


def _with(options: Sequence[Callable[[_Command], _Command]], command: _Command) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command


def options_of(
    *,
    data: str | None,
    labels: str | None,
    columns: Sequence[str],
    seed: int,
    scale: float,
    mean: str,
    std: str,
    resize: int | None,
    uint8: bool,
    channels_last: bool,
    recipes: tuple[str, ...],
    targets: tuple[str, ...],
    task: str | None,
    metric: str | None,
    max_loss: float | None,
    max_batch_size: int,
    trust: bool,
    **importing: Any,
) -> BuildOptions:
    """Return what the flags say, `importing` those of `importing_of`; raises ValueError for a wrong one."""
    from headrace_engines.build import BuildOptions
    from headrace_engines.data.options import DataOptions, Pixels
    from headrace_engines.folding import Fold
    from headrace_engines.imported import FileOptions
    from headrace_engines.judgement import Wish

    if channels_last and not uint8:
        raise ValueError("--channels-last is about a model that takes pixels: it needs --uint8")
    pixels = Pixels(scale, _numbers("--mean", mean), _numbers("--std", std), resize or 0)
    _check_pixels(pixels, data, is_folded=uint8)
    rows = DataOptions(
        source=data, labels=labels, seed=seed, columns=dict(map(_columns, columns)), pixels=pixels
    )
    return BuildOptions(
        file=FileOptions(
            importing_of(trust=trust, **importing), rows, Fold(channels_last) if uint8 else None, trust
        ),
        wish=Wish(task or "", metric or "", max_loss),
        recipes=recipes,
        targets=targets,
        max_batch_size=max_batch_size,
    )


def importing_of(
    *,
    trust: bool,
    factory: str,
    inputs: Sequence[str],
    opset: int,
    import_timeout_secs: float,
    import_memory_gib: float | None,
) -> ImportOptions:
    """Return what the flags tell of a source's file; raises ValueError for one that cannot be read."""
    from headrace_engines.importers.importer import ImportOptions
    from headrace_engines.importers.limits import Limits

    if not math.isfinite(import_timeout_secs + (import_memory_gib or 0)):
        raise ValueError("--import-timeout-secs, --import-memory-gib: expected numbers that are finite")
    told = [_input(text) for text in inputs]
    return ImportOptions(
        factory=factory,
        input_shapes={name: dims for name, _, dims in told},
        input_dtypes={name: dtype for name, dtype, _ in told if dtype},
        opset=opset,
        is_trusted=trust,
        limits=Limits(
            import_timeout_secs, None if import_memory_gib is None else int(import_memory_gib * 2**30)
        ),
    )


def about_files(context: click.Context) -> list[str]:
    """Return the flags on a command line that tell of a source's file, or of rows for it."""
    told = click.Command("told")
    import_options(data_options(told))
    names = {option.name for option in told.params}
    return [
        option.opts[0]
        for option in context.command.params
        if option.name in names
        and context.get_parameter_source(option.name) is not click.core.ParameterSource.DEFAULT
    ]


def trusting(options: BuildOptions) -> BuildOptions:
    """Return the same, with leave to execute code in the source."""
    importing = replace(options.file.importing, is_trusted=True)
    return replace(options, file=replace(options.file, importing=importing, is_trusted=True))


def _check_pixels(pixels: Pixels, data: str | None, *, is_folded: bool) -> None:
    """Raise ValueError for scaling that cannot be, or that nothing here would be scaled with."""
    numbers = {"--scale": (pixels.scale,), "--mean": pixels.mean, "--std": pixels.std}
    for flag, values in numbers.items():
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{flag}: expected numbers that are finite")
        if flag != "--mean" and 0 in values:
            raise ValueError(f"{flag} 0: pixels become (pixel * scale - mean) / std, where it cannot be 0")
    counts = {len(values) for values in (pixels.mean, pixels.std)} - {1}
    if len(counts) > 1:
        raise ValueError("--mean and --std have one number, or one for each channel: these differ")
    plain = type(pixels)()
    names = ("scale", "mean", "std", "resize")
    given = [f"--{name}" for name in names if getattr(pixels, name) != getattr(plain, name)]
    from headrace_engines.data.functions import is_function

    are_read = data is not None and not Path(data).is_file() and not is_function(data)
    idle = [flag for flag in given if not (are_read or (is_folded and flag != "--resize"))]
    if idle:
        raise ValueError(
            f"{', '.join(idle)}: there are no pictures for it: --data is no folder of them"
            + ("" if is_folded else ", and --uint8 is not given, which puts the scaling into the model")
        )


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"{flag} {text!r}: expected numbers with commas between them") from error


def _input(text: str) -> tuple[str, str, tuple[int, ...]]:
    """Read `x:float32:3,224,224`; the name may hold colons, the dtype be left out, and dims be none."""
    parts = text.rsplit(":", _INPUT_PARTS - 1)
    if len(parts) != _INPUT_PARTS or not parts[0]:
        raise ValueError(f"--input {text!r}: expected NAME:DTYPE:DIMS, as x:float32:3,224,224")
    name, dtype, dims = parts
    try:
        return name, dtype, tuple(int(dim) for dim in dims.split(",") if dim)
    except ValueError as error:
        raise ValueError(
            f"--input {text!r}: dims {dims!r} are no whole numbers with commas between them"
        ) from error


def _columns(text: str) -> tuple[str, tuple[str, ...]]:
    name, separator, columns = text.partition("=")
    if not separator or not name or not columns:
        raise ValueError(f"--columns {text!r}: expected INPUT=COLUMN,COLUMN")
    return name, tuple(columns.split(","))
