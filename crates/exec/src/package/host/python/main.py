"""The handler host: takes calls from a pipe, runs handlers on an event loop and in threads, and answers over another pipe."""

import asyncio
import concurrent.futures
import contextvars
import faulthandler
import gc
import inspect
import itertools
import json
import logging
import os
import struct
import sys
import threading
import time

from longshore_host import encode, load, prints, shims
from longshore_host.context import ExecutionContext, NextCaller, ResourceRef
from longshore_host.feedback import FeedbackPublisher
from longshore_host.resources import ResourceRegistry

_HEAD = struct.Struct(">IBI")
_READ_BYTES = 1 << 18
# From 3.12 on a task may take its first step at once, which spares a turn of the event loop.
_EAGER = {"eager_start": True} if sys.version_info >= (3, 12) else {}
_RESOURCE_BYTES_MAX = 64 * 1024
_OUT_OF_MEMORY = b'{"kind":"raised","type":"MemoryError","message":"MemoryError","ms":0}'


def main(hello):
    # Nothing that a handler starts or prints has any business with the pipes.
    reader, writer = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    faulthandler.enable()
    try:
        # If memory runs out, this process goes and not the worker.
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("500")
    except OSError:
        pass
    sys.path.insert(0, hello["directory"])
    shims.install(hello["directory"])
    host = Host(hello, reader, writer)
    sys.stdout, sys.stderr = prints.Stream(sys.stdout, "stdout", host), prints.Stream(sys.stderr, "stderr", host)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    host.run()


class Host:
    def __init__(self, hello, reader, writer):
        self._hello = hello
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.new_event_loop()
        self._threads = concurrent.futures.ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4), "handler")
        self._in = bytearray()
        self._out = bytearray()
        self._out_lock = threading.Lock()
        self._drain_waiters = []
        self._loaded = {}
        self._loading = {}
        self._tasks = {}
        self._stopping = set()
        self._publishers = {}
        self._prints = {}
        self._nexts = {}
        self._next_numbers = itertools.count(1)
        self._is_copy = False
        self._registry = ResourceRegistry(self, hello["worker_name"], hello["data_dir"])
        self._orders = {
            ord("C"): self._call,
            ord("X"): self._stop,
            ord("N"): self._next,
            ord("P"): lambda call, _payload: self._pause(call, True),
            ord("R"): lambda call, _payload: self._pause(call, False),
            ord("Q"): lambda _call, _payload: self._leave(0),
        }

    def run(self):
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        os.register_at_fork(after_in_child=self._forked)
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._reader, self._readable)
        version = "%d.%d.%d" % sys.version_info[:3]
        self._send("h", 0, json.dumps({"python": version}).encode())
        gc.collect()
        gc.freeze()
        failed, failures = 0.0, 0
        while True:
            # A handler may stop the loop, and a task of its own may raise what ends one. Neither is a reason to leave the others.
            try:
                self._loop.run_forever()
            except BaseException as error:
                if self._is_copy:
                    os._exit(0)
                now = time.monotonic()
                failed, failures = now, failures + 1 if now - failed < 1 else 1
                if failures == 20:
                    self._leave(70, "the event loop does not work any more: %s: %s" % (type(error).__name__, error))
                logging.getLogger("longshore_host").exception("something that a handler left behind raised")
            if self._is_copy:
                os._exit(0)
            if self._loop.is_closed():
                self._leave(70, "a handler closed the event loop")

    # What handlers use.

    def printed(self, call, stream, text):
        """Whether somebody wants what a task prints; then it is sent."""
        taker = self._prints.get(call)
        return taker is not None and taker.take(stream, text)

    def feedback(self, call, piece):
        if call in self._publishers:
            self._send("f", call, self._said("feedback", piece, self._hello["frame_bytes_max"] - 16))

    def resource(self, wire):
        self._send("s", 0, self._said("a resource", wire, _RESOURCE_BYTES_MAX))

    @staticmethod
    def _said(what, value, most):
        # What cannot be sent is the mistake of who says it, and must not look like nonsense from this process.
        try:
            payload = encode.dumps(value)
        except encode.NotEncodable as error:
            raise ValueError("%s cannot be sent: %s" % (what, error)) from None
        if len(payload) > most:
            raise ValueError("%s has %d bytes, where %d are the most" % (what, len(payload), most))
        return payload

    def ask_next(self, call, request, answer):
        number = next(self._next_numbers)
        payload = self._said("the request of next()", {"number": number, "request": request}, self._hello["frame_bytes_max"] - 16)
        self._nexts[number] = (call, answer)
        self._send("n", call, payload)
        return number

    def forget_next(self, number):
        self._nexts.pop(number, None)

    # What comes.

    def _readable(self):
        try:
            self._read()
        except BaseException as error:
            # What came is lost in part: nobody can tell any more which call is meant.
            self._leave(71, "a call could not be read: %s: %s" % (type(error).__name__, error))

    def _read(self):
        try:
            data = os.read(self._reader, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._leave(74, "the pipe of calls cannot be read: %s" % error)
        if not data:
            self._leave(0)
        self._in += data
        at = 0
        while len(self._in) - at >= _HEAD.size:
            length, kind, call = _HEAD.unpack_from(self._in, at)
            end = at + 4 + length
            if len(self._in) < end:
                break
            payload = bytes(self._in[at + _HEAD.size : end])
            at = end
            order = self._orders.get(kind)
            if order is not None:
                order(call, payload)
        del self._in[:at]

    def _call(self, call, payload):
        task = asyncio.Task(self._perform(call, payload), loop=self._loop, **_EAGER)
        if not task.done():
            self._tasks[call] = task

    def _stop(self, call, _payload):
        self._send("x", call, b"")
        task = self._tasks.get(call)
        if task is not None:
            self._stopping.add(call)
            # Not at once: a task that has not had its first step yet could not even say that it was cancelled.
            self._loop.call_soon(task.cancel)

    def _next(self, _call, payload):
        reply = json.loads(payload)
        _, answer = self._nexts.pop(reply["number"], (None, None))
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result(reply)

    def _pause(self, call, paused):
        publisher = self._publishers.get(call)
        if publisher is not None:
            publisher._pause(paused)

    # What becomes of a call.

    async def _perform(self, call, payload):
        began = time.perf_counter()
        leases = []
        try:
            request = json.loads(payload)
            prints.CALL.set(call)
            if request["output"]:
                self._prints[call] = prints.Taker(lambda piece: self._send("l", call, piece))
            loaded = self._loaded.get(request["node_type"]) or await self._load(request["node_type"], request["target"])
            context = self._context(call, request, leases)
            began = time.perf_counter()
            value = await self._run(loaded, request["exec_mode"], context)
            took = time.perf_counter() - began
            body = encode.dumps(value)
            if len(body) > self._hello["frame_bytes_max"] - 64:
                raise encode.NotEncodable("%d bytes, where %d are the most" % (len(body), self._hello["frame_bytes_max"]))
            kind, answer = "r", b'{"ms":%d,"value":%b}' % (took * 1000, body)
        except BaseException as error:
            kind, answer = "e", self._failure(call, error, time.perf_counter() - began)
        if self._is_copy:
            os._exit(0)
        for resource_id in leases:
            self._registry.release(resource_id)
        publisher = self._publishers.pop(call, None)
        if publisher is not None:
            publisher._pause(False)
        self._tasks.pop(call, None)
        self._stopping.discard(call)
        taker = self._prints.pop(call, None)
        if taker is not None:
            taker.end()
        for number in [number for number, (owner, _) in self._nexts.items() if owner == call]:
            self._nexts.pop(number, None)
        try:
            self._send(kind, call, answer)
        except BaseException:
            self._send("e", call, _OUT_OF_MEMORY)

    async def _run(self, loaded, exec_mode, context):
        if loaded.is_coroutine:
            return await loaded.function(context)
        if exec_mode == "inline":
            value = loaded.function(context)
        else:
            value = await self._in_thread(loaded.function, context)
        if inspect.isawaitable(value):
            value = await value
        return value

    async def _in_thread(self, function, context):
        def caught():
            # What threads raise is carried as a value: some exceptions cannot be set on a future.
            try:
                result = function(context), None
            except BaseException as error:
                result = None, error
            if self._is_copy:
                os._exit(0)
            return result

        future = self._threads.submit(contextvars.copy_context().run, caught)
        waiting = asyncio.wrap_future(future, loop=self._loop)
        cancelled = False
        while True:
            try:
                value, error = await asyncio.shield(waiting)
                break
            except asyncio.CancelledError:
                if future.cancel():
                    raise
                # A thread cannot be stopped. The call is over when the thread is, or when this process is ended for it.
                cancelled = True
        if error is not None:
            raise error
        if cancelled:
            raise asyncio.CancelledError
        return value

    async def _load(self, node_type, target):
        loading = self._loading.get(node_type)
        if loading is None:
            # In a thread of its own: whatever a module does when it is imported is waited for by this node's tasks only.
            loading = self._loading[node_type] = self._loop.create_future()
            thread = threading.Thread(target=self._load_in_thread, args=(node_type, target), name="import", daemon=True)
            try:
                thread.start()
            except BaseException as error:
                self._loading.pop(node_type, None)
                loading.set_result((None, error))
        loaded, error = await asyncio.shield(loading)
        if error is not None:
            raise _LoadFailed(error)
        return loaded

    def _load_in_thread(self, node_type, target):
        asyncio.set_event_loop(self._loop)
        try:
            result = load.load(self._hello["directory"], target["entrypoint"], target["handler"]), None
        except BaseException as error:
            result = None, error
        self._loop.call_soon_threadsafe(self._loaded_now, node_type, result)

    def _loaded_now(self, node_type, result):
        if result[0] is not None:
            self._loaded[node_type] = result[0]
        loading = self._loading.pop(node_type, None)
        if loading is not None and not loading.done():
            loading.set_result(result)

    def _context(self, call, request, leases):
        publisher = self._publishers[call] = FeedbackPublisher(self, call)
        fields = request["context"]
        leased = {}
        for wire in request["leased"]:
            leased[wire["resource_id"]] = self._registry._adopt(wire)
            leases.append(wire["resource_id"])
        refs = fields.pop("resource_refs", None)
        names = ("resource_id", "worker_name", "type", "scope", "expires_at", "metadata")
        return ExecutionContext(
            package_name=self._hello["name"],
            package_version=self._hello["version"],
            resource_refs=None if refs is None else [ResourceRef(**{name: ref.get(name) for name in names}) for ref in refs],
            resource_registry=self._registry,
            leased_resources=leased,
            feedback=publisher,
            next_handler=NextCaller(self, call),
            **fields,
        )

    def _failure(self, call, error, took):
        try:
            kind = "raised"
            if isinstance(error, asyncio.CancelledError) and call in self._stopping:
                kind = "cancelled"
            elif isinstance(error, encode.NotEncodable):
                kind = "not_encodable"
            elif isinstance(error, _LoadFailed):
                kind, error = "not_loaded", error.why
            name = "" if isinstance(error, (load.NotLoaded, encode.NotEncodable)) else type(error).__name__
            try:
                message = str(error)
            except BaseException:
                message = ""
            message = message[:8192].encode("utf-8", "replace").decode("utf-8")
            name = name[:256].encode("utf-8", "replace").decode("utf-8")
            return json.dumps({"kind": kind, "type": name, "message": message, "ms": int(took * 1000)}).encode()
        except BaseException:
            return _OUT_OF_MEMORY

    # What goes.

    def _send(self, kind, call, payload):
        if self._is_copy:
            return
        frame = _HEAD.pack(len(payload) + 5, ord(kind), call) + payload
        with self._out_lock:
            if self._out:
                self._out += frame
                return
            sent = self._write(frame)
            if sent == len(frame):
                return
            self._out += memoryview(frame)[sent:]
        self._loop.call_soon_threadsafe(self._loop.add_writer, self._writer, self._writable)

    def _writable(self):
        waiters = []
        with self._out_lock:
            del self._out[: self._write(self._out)]
            if not self._out:
                self._loop.remove_writer(self._writer)
                waiters, self._drain_waiters = self._drain_waiters, []
        for waiter in waiters:
            waiter.set()

    def unsent(self, waiter):
        """Whether the pipe is behind; `waiter` is told when it is not."""
        with self._out_lock:
            if self._out:
                self._drain_waiters.append(waiter)
            return bool(self._out)

    def _write(self, data):
        try:
            return os.write(self._writer, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._leave(74, "the pipe of answers cannot be written: %s" % error)

    def _forked(self):
        # A copy of this process, made by a handler: it has the handler's business and none with the pipes.
        self._is_copy = True
        # If it comes back to the event loop, it is not to run it: that is shared as well.
        self._loop._ready.clear()
        self._loop._ready.appendleft(asyncio.Handle(os._exit, (0,), self._loop))
        for fd in (self._reader, self._writer):
            try:
                os.close(fd)
            except OSError:
                pass

    def _leave(self, code, why=None):
        if why is not None:
            try:
                os.write(2, ("longshore: %s\n" % why).encode("utf-8", "replace"))
            except OSError:
                pass
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        # Not by way of the interpreter's own end, which waits for every thread that a handler has left.
        os._exit(code)


class _LoadFailed(Exception):
    def __init__(self, why):
        super().__init__(str(why))
        self.why = why
