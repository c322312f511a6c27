"""A real `kvnode` process serves typed calls: that its composition root wires them, which tests in one process cannot show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.processes import KvnodeProcess
from tests.support.unary import Caller, error_and_status


@pytest.fixture
def process(tmp_path: Path) -> Iterator[KvnodeProcess]:
    process = KvnodeProcess(tmp_path / "a")
    try:
        process.start()
        yield process
    finally:
        process.kill()


async def test_kvnode_serves_typed_calls_health_and_reflection(process: KvnodeProcess) -> None:
    """On the port it announces; and its orderly stop does not wait for the idle channel."""
    caller = Caller(process.address)
    await caller.put("k", b"a")
    await caller.put("k", b"b")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.get("k", bucket="nowhere")
    health: Any = health_pb2_grpc.HealthStub(caller.channel)
    told = await health.Check(health_pb2.HealthCheckRequest(service="kvstore.v1.Registers"), timeout=5)
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (services,) = [answer async for answer in reflection.ServerReflectionInfo(asked, timeout=5)]

    assert await caller.values("k") == [b"a", b"b"]
    assert error_and_status(refused.value) == ("FAILED_PRECONDITION", "no_such_bucket", True)
    assert told.status == health_pb2.HealthCheckResponse.SERVING
    assert "kvstore.v1.Registers" in [each.name for each in services.list_services_response.service]
    assert process.terminate() == 0
    await caller.channel.close()
