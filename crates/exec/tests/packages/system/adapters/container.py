"""Middlewares: they run what comes after them, as often as they like."""

import asyncio
import threading

from worker.execution import ExecutionContext

from adapters import helper


async def loop_middleware(context: ExecutionContext):
    results = []
    for turn in range(context.params["times"]):
        results.append(await context.next({"turn": turn}, middleware_ctx={"loop": turn}, host_ctx={"of": "host"}))
    return {"outputs": {"results": results}}


async def gather(context: ExecutionContext):
    return {"results": await asyncio.gather(*[context.next({"turn": turn}) for turn in range(context.params["times"])])}


async def case_middleware(context: ExecutionContext):
    try:
        return {"outputs": await context.next()}
    except Exception as error:
        return {"status": "failed", "code": getattr(error, "code", None), "trace": getattr(error, "trace", None), "text": str(error)}


async def slow_next(context: ExecutionContext):
    try:
        await context.next(timeout_ms=50)
    except Exception as error:
        first = error.code
    in_thread = []
    thread = threading.Thread(target=lambda: in_thread.append(asyncio.run(context.next({"from": "a thread"}))))
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.005)
    return {"first": first, "in_thread": in_thread}


async def register(context: ExecutionContext):
    registry = context.resource_registry
    file = context.data_dir / "made.txt"
    file.write_text("made")
    registry.register_file(resource_id="made", file_path=file, resource_type="text", scope="run", metadata={"colour": "red"})
    try:
        registry.lease("missing")
        missing = False
    except KeyError:
        missing = True
    listed = [handle.resource_id for handle in registry.list(scope="run", resource_type="text")]
    return {"missing": missing, "listed": listed, "artifacts": [registry.to_artifact_descriptor("made"), {"odd": 1}]}


async def use_resource(context: ExecutionContext):
    handle = context.leased_resources["made"]
    return {"text": handle.path.read_text(), "in_use": handle.in_use, "ref": context.resource_refs[0].resource_id, "type": handle.type}


async def whose(context: ExecutionContext):
    return {"whose": helper.WHOSE}
