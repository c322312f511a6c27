"""The stubs in kvstore/v1 are what proto/ says. To make them again:   python -m tests.regenerate_stubs

Two tests, because the pinned generator cannot be installed beside the product: its exact output is compared where its
interpreter is named in KVSTORE_PROTOC_PYTHON (CI does), the meaning of the schema everywhere.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from kvstore.v1 import frames_pb2, registers_pb2
from tests.regenerate_stubs import (
    GENERATED,
    INTERPRETER_VARIABLE,
    PROTO_FILES,
    REQUIREMENTS,
    ROOT,
    generate,
    pinned_interpreter,
)


def test_the_stubs_are_exactly_what_the_pinned_generator_makes(tmp_path: Path) -> None:
    """Byte for byte: nobody edited them, and nobody used another version."""
    interpreter = pinned_interpreter()
    if interpreter is None:
        pytest.skip(f"{INTERPRETER_VARIABLE} names no interpreter with {REQUIREMENTS[0]}")

    generate(interpreter, tmp_path)

    for name in GENERATED:
        assert (ROOT / name).read_text() == (tmp_path / name).read_text(), f"{name}: run {__doc__.split(':')[1]}"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py*")) == sorted(GENERATED)


def test_the_stubs_describe_the_schema_in_the_proto_file(tmp_path: Path) -> None:
    """Whatever generator is at hand parses the .proto files; the descriptors in the stubs say the same."""
    output = tmp_path / "descriptors"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={output}", *PROTO_FILES]
    subprocess.run(command, cwd=ROOT / "proto", check=True)

    compiled = FileDescriptorSet.FromString(output.read_bytes()).file

    for parsed, stub in zip(compiled, [frames_pb2, registers_pb2], strict=True):
        parsed.ClearField("source_code_info")
        for message in parsed.message_type:
            for each in (message, *message.nested_type):
                for field in each.field:
                    field.ClearField("json_name")  # protoc writes it into sets but not into stubs
        assert parsed == FileDescriptorProto.FromString(stub.DESCRIPTOR.serialized_pb)


def test_the_proto_directory_is_no_package() -> None:
    """A top-level package `proto` would shadow that of proto-plus in every program that installs us."""
    assert list((ROOT / "proto").rglob("*.py")) == []


def test_the_stubs_import_each_other_by_their_real_path() -> None:
    """`kvstore.v1`, not a top-level name that works in one directory only."""
    assert "from kvstore.v1 import frames_pb2" in (ROOT / "kvstore/v1/frames_pb2_grpc.py").read_text()
