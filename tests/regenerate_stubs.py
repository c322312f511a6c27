"""Makes the stubs in kvstore/v1 from proto/, with one exact grpcio-tools:   python -m tests.regenerate_stubs

Why 1.62.3: generated code demands at least the runtime it was made for, so the oldest generator gives the widest range
for users. 1.62 is the last one whose output checks nothing when imported: its messages (gencode 4.25.1) were tried with
protobuf 4.25.9, 5.26.1, 6.33.0 and 7.36.2, the transport with grpcio 1.62.3, 1.63.2, 1.76.0 and 1.85.1. From 1.63 on
the services refuse an older grpcio, and from protobuf 5.27 on the messages refuse an older protobuf. It needs
protobuf < 5 for itself, so it cannot live beside the product: it gets a virtual environment of its own, made here (it
has wheels for CPython 3.8 to 3.12). To reuse one, name its interpreter in KVSTORE_PROTOC_PYTHON.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["GENERATED", "PROTO_FILES", "REQUIREMENTS", "generate", "pinned_interpreter"]

ROOT = Path(__file__).resolve().parent.parent
PROTO_FILES = ["kvstore/v1/frames.proto", "kvstore/v1/registers.proto"]
KINDS = ["python", "pyi", "grpc_python"]
GENERATED = [
    file.removesuffix(".proto") + ending for file in PROTO_FILES for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
]
REQUIREMENTS = ["grpcio-tools==1.62.3", "protobuf==4.25.9", "setuptools<81"]  # setuptools: it imports pkg_resources
INTERPRETER_VARIABLE = "KVSTORE_PROTOC_PYTHON"
PROBE = "from importlib.metadata import version; print('grpcio-tools==' + version('grpcio-tools'))"


def generate(interpreter: str, directory: Path) -> None:
    """Write the stubs below `directory`, as kvstore/v1/..., with the grpcio-tools of an interpreter."""
    command = [interpreter, "-m", "grpc_tools.protoc", "-I.", *(f"--{kind}_out={directory}" for kind in KINDS)]
    subprocess.run([*command, *PROTO_FILES], cwd=ROOT / "proto", check=True)


def pinned_interpreter() -> str | None:
    """Return an interpreter that has the pinned generator: the named one or this one; None if neither has."""
    for interpreter in (os.environ.get(INTERPRETER_VARIABLE), sys.executable):
        if interpreter:
            found = subprocess.run([interpreter, "-c", PROBE], capture_output=True, text=True, check=False)
            if found.stdout.strip() == REQUIREMENTS[0]:
                return interpreter
    return None


def main() -> None:
    interpreter = pinned_interpreter()
    with tempfile.TemporaryDirectory() as directory:
        if interpreter is None:
            subprocess.run([sys.executable, "-m", "venv", directory], check=True)
            interpreter = str(Path(directory) / "bin" / "python")
            subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        generate(interpreter, ROOT)


if __name__ == "__main__":
    main()
