"""Each of these does something that must harm nobody else."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time


async def well(context):
    return {"pid": os.getpid(), "fds": len(os.listdir("/proc/self/fd"))}


async def waits(context):
    _begun(context)
    while not os.path.exists(context.params["until"]):
        await asyncio.sleep(0.005)
    return {"waited": True}


def _begun(context):
    (context.data_dir / "begun").write_text("%d\n" % os.getpid())


def loops(context):
    _begun(context)
    while True:
        pass


async def loops_on_the_loop(context):
    _begun(context)
    while True:
        pass


async def blocks_the_loop_for_a_while(context):
    _begun(context)
    time.sleep(0.5)
    return {}


async def will_not_be_cancelled(context):
    _begun(context)
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass


async def tidies_up(context):
    _begun(context)
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        (context.data_dir / "tidied").write_text("x")
        raise


async def returns_when_cancelled(context):
    _begun(context)
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        return {"half": True}


def allocates(context):
    kept = []
    while True:
        kept.append(bytearray(16 << 20))


def forks(context):
    child = os.fork()
    if child == 0:
        return {"who": "the copy"}
    os.waitpid(child, 0)
    return {"who": "the handler"}


async def forks_on_the_loop(context):
    child = os.fork()
    if child == 0:
        await context.feedback.send(message="from the copy")
        return {"who": "the copy"}
    os.waitpid(child, 0)
    return {"who": "the handler"}


async def forks_many(context):
    for _ in range(context.params["count"]):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    pids = subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
    return {"child": pids}


async def prints(context):
    stream = sys.stderr if context.params["stream"] == "stderr" else sys.stdout
    piece = "x" * (1 << 20)
    for _ in range(context.params["mebibytes"]):
        stream.write(piece)
    stream.flush()
    return {"printed": True}


def _pipes():
    """The descriptors of the host's own pipes: a handler that looks for them finds them."""
    found = []
    for fd in range(3, 64):
        try:
            if os.readlink("/proc/self/fd/%d" % fd) != "" and os.fstat(fd).st_mode & 0o170000 == 0o010000:
                found.append(fd)
        except OSError:
            pass
    return found


async def closes_the_pipe(context):
    for fd in _pipes():
        os.close(fd)
    await asyncio.sleep(0.01)
    return {}


async def closes_everything(context):
    os.closerange(0, 256)
    await asyncio.sleep(0.01)
    return {}


async def writes_nonsense(context):
    for fd in _pipes():
        try:
            os.write(fd, b"HTTP/1.1 200 OK\r\n\r\n")
        except OSError:
            pass
    await asyncio.sleep(1000)


async def exits_at_once(context):
    sys.stderr.write("last words of the host\n")
    sys.stderr.flush()
    os._exit(3)


async def crashes(context):
    ctypes.string_at(0)


async def kills_itself(context):
    os.kill(os.getpid(), signal.SIGKILL)


async def stops_itself(context):
    _begun(context)
    os.kill(os.getpid(), signal.SIGSTOP)


async def kills_its_supervisor(context):
    os.kill(os.getppid(), signal.SIGKILL)
    await asyncio.sleep(1000)


class Opaque:
    pass


async def returns(context):
    deep = []
    for _ in range(5000):
        deep = [deep]
    circle = {}
    circle["self"] = circle
    nested = {}
    for _ in range(90):
        nested = {"n": nested}

    class Lies(dict):
        def items(self):
            raise KeyError("lies")

    class Angry:
        def __getattr__(self, name):
            raise SystemExit("angry")

    values = {
        "object": Opaque(),
        "deep": deep,
        "circle": circle,
        "nested": nested,
        "surrogate": "\ud800",
        "not_utf8": b"\xff",
        "huge_number": 10**400,
        "large": "x" * (3 << 20),
        "generator": (n for n in range(3)),
        "tuple_keys": {(1, 2): 3},
        "lies": Lies(a=1),
        "angry": Angry(),
        "coroutine_never_awaited": asyncio.sleep(0),
    }
    value = values[context.params["what"]]
    return {"value": value}


async def returns_no_dict(context):
    return ["a", "list"]


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Ends(BaseException):
    pass


def _error(what):
    return {
        "ValueError": ValueError("bad value"),
        "empty": KeyError(),
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit("g"),
        "BaseException": Ends("the base of all"),
        "StopIteration": StopIteration("s"),
        "CancelledError": asyncio.CancelledError("own"),
        "Unspeakable": Unspeakable(),
        "surrogate": ValueError("\ud800"),
        "long_name": type("N" * (3 << 20), (Exception,), {})("m"),
        "long": ValueError("x" * 1_000_000),
        "RecursionError": RecursionError("r"),
    }[what]


async def raises(context):
    raise _error(context.params["what"])


def raises_in_thread(context):
    raise _error(context.params["what"])


async def recursion(context):
    def down(n):
        return down(n + 1)

    return down(0)


async def leaves_threads(context):
    def forever():
        while True:
            time.sleep(0.01)

    for _ in range(20):
        threading.Thread(target=forever).start()

    async def task_that_raises():
        raise SystemExit("left behind")

    asyncio.get_running_loop().create_task(task_that_raises())
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
    return {"left": True}


async def floods_feedback(context):
    for step in range(context.params["count"]):
        context.feedback.send_nowait(progress=step / context.params["count"], chunks=[{"text": "x" * 1000, "index": step}])
    return {}


async def sends_feedback_politely(context):
    for step in range(context.params["count"]):
        await context.feedback.send(chunks=[{"text": "x" * 1000, "index": step}])
    return {}


async def says_too_much(context):
    refused = []
    for say in (
        lambda: context.feedback.send_nowait(chunks=[{"text": "x" * (3 << 20)}]),
        lambda: context.feedback.send_nowait(metadata={"odd": object()}),
        lambda: context.resource_registry.register(resource_id="r", resource_type="t", metadata={"long": "x" * (1 << 20)}),
    ):
        try:
            say()
        except ValueError as error:
            refused.append(str(error))
    return {"refused": refused}


async def environment(context):
    return {"environment": dict(os.environ), "limits": open("/proc/self/limits").read(), "argv": sys.orig_argv if hasattr(sys, "orig_argv") else []}


async def late_feedback(context):
    feedback = context.feedback

    def later():
        time.sleep(0.05)
        feedback.send_nowait(message="too late")

    threading.Thread(target=later).start()
    return {}
