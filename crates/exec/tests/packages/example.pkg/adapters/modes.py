"""Plain functions, and where they run."""

import asyncio
import logging
import threading
import time


def _where():
    try:
        asyncio.get_running_loop()
        return "loop"
    except RuntimeError:
        return "thread" if threading.current_thread() is not threading.main_thread() else "nowhere"


def where(context):
    return {"where": _where()}


async def where_coroutine(context):
    return {"where": _where()}


def where_awaitable(context):
    before = _where()

    async def later():
        return {"before": before, "where": _where()}

    return later()


def thread_feedback(context):
    for step in range(100):
        context.feedback.send_nowait(progress=step / 100, chunks=[{"text": str(step)}])
    asyncio.run(context.feedback.emit_text("from a loop of its own"))
    until = time.monotonic() + 30
    while not (context.data_dir / "go").exists() and time.monotonic() < until:
        time.sleep(0.005)
    return {"went": (context.data_dir / "go").exists()}


def _print(name, step):
    print(name, step)


async def prints(context):
    for step in range(3):
        _print(context.params["name"], step)
        await asyncio.sleep(0.01)
    print("without an end \ud800", end="")
    logging.getLogger(__name__).info(context.params["name"])
    return {}


def prints_in_thread(context):
    for step in range(3):
        _print(context.params["name"], step)
        time.sleep(0.01)
    print("without an end \ud800", end="")
    logging.getLogger(__name__).info(context.params["name"])
    return {}
