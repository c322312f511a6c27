"""One load process of the overload campaign: connects, says so, waits for the time to begin, and tells what it counted.

stdin   the plan in JSON                      the monotonic time to begin at
stdout                     ready                                              the tally in hex
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from cluster.cli.session import quiet_collector
from kvstore.client.options import Options
from kvstore.client.runtime import Runtime
from kvstore.system import system_random
from tests.campaigns.harness import say
from tests.campaigns.open_loop import OpenLoop, Plan

LATE_ANSWERS_S = 0.3
"""After the deadline of the last operation; then every one has ended one way or the other."""


async def _run(plan: Plan) -> None:
    runtime = Runtime(
        plan.addresses, Options(attempt_timeout_s=plan.deadline_s), transport=None, clock=None, rng=None
    )  # fmt: skip
    requests = runtime.start()
    loop = requests.router.loop
    cpu_s: list[float] = []
    open_loop = OpenLoop(plan, requests, system_random(), lambda: cpu_s.append(time.process_time()))
    await open_loop.prepare()
    say("ready")
    begins = float(await asyncio.to_thread(sys.stdin.readline))
    open_loop.start(begins - time.monotonic() + loop.time())
    await open_loop.over
    await asyncio.sleep(plan.deadline_s + LATE_ANSWERS_S)
    await open_loop.check_samples()
    tally = open_loop.count()
    tally.cpu_s = cpu_s[-1] - cpu_s[0]
    say(tally.packed().hex())
    await runtime.close()


if __name__ == "__main__":
    quiet_collector()
    given = json.loads(sys.stdin.readline())
    uvloop.run(_run(Plan(**{**given, "addresses": tuple(given["addresses"])})))
