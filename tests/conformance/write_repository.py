"""Writes the model repository that the rows are put to, and prints the flags to start a server with.

    python tests/conformance/write_repository.py FOLDER [--triton] [--closed]

Headrace's and Triton's have the same models under the same configuration; Triton's run as programs, for
its Python backend is the one that it brings everywhere. The closed one is for a server that allows
nothing which it need not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1] / "proto")]

from oip.case import Server  # noqa: E402  # found by the path above
from oip.models import ModelFolder, models_of  # noqa: E402


def write(folder: Path, server: Server, *, triton: bool = False) -> list[str]:
    """Write the models below `folder`; return the flags of a server over them."""
    models = models_of(server)
    for model in models:
        _write_model(folder / model.name, model, triton=triton)
    flags = [f"--model-repository={folder}"]
    if server is not Server.CLOSED:
        flags += ["--model-control-mode=explicit"]
        flags += [f"--load-model={model.name}" for model in models if model.at_start]
        flags += [] if triton else ["--allow-python-models", "--allow-client-shm"]
    return flags


def _write_model(folder: Path, model: ModelFolder, *, triton: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(_configuration(model, triton=triton))
    if model.labels:
        (folder / "classes.txt").write_text("".join(f"{label}\n" for label in model.labels))
    for number in model.versions:
        version = folder / str(number)
        version.mkdir()
        if triton:
            shutil.copy(HERE / "programs" / "triton" / f"{model.twin}.py", version / "model.py")
        elif model.program:
            shutil.copy(HERE / "programs" / "headrace" / f"{model.program}.py", version / "model.py")
        else:
            (version / "model.onnx").write_bytes(
                model.graph(number).SerializeToString() if model.graph else b"no model"
            )


def _configuration(model: ModelFolder, *, triton: bool) -> str:
    backend = "python" if triton or model.program else "onnxruntime"
    inputs = ",\n  ".join(map(str, model.inputs))
    outputs = ",\n  ".join(map(str, model.outputs))
    return (
        f'name: "{model.name}"\nbackend: "{backend}"\nmax_batch_size: {model.batch}\n'
        f"input [\n  {inputs}\n]\noutput [\n  {outputs}\n]\n"
        f"instance_group [{{ count: 1 kind: KIND_CPU }}]\n{model.settings}\n"
    )


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--triton", action="store_true", help="for Triton's Python backend")
    parser.add_argument("--closed", action="store_true", help="for a server that allows nothing more")
    given = parser.parse_args()
    server = Server.CLOSED if given.closed else Server.OPEN
    print(*write(given.folder.resolve(), server, triton=given.triton))


if __name__ == "__main__":
    main()
