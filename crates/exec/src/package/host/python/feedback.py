"""Feedback of a handler: checked here, so that a mistake raises where it was made; sent from any thread, in order."""

import asyncio
import enum
import math
import threading


class Channel(str, enum.Enum):
    """What a chunk is a piece of."""

    stdout = "stdout"
    stderr = "stderr"
    log = "log"
    llm = "llm"
    metric = "metric"
    custom = "custom"


class FeedbackChunk:
    """A piece of output."""

    _fields = ("channel", "index", "mime_type", "text", "data_base64", "metadata")

    def __init__(self, channel=Channel.log, **fields):
        unknown = set(fields) - set(self._fields)
        if unknown:
            raise ValueError("a chunk of feedback has no %s" % ", ".join(sorted(unknown)))
        self.channel = channel
        for name in self._fields[1:]:
            setattr(self, name, fields.get(name))

    def model_dump(self, **_options):
        return {name: getattr(self, name) for name in self._fields if getattr(self, name) is not None}

    dict = model_dump


def _text(name, value):
    if value is not None and not isinstance(value, str):
        raise ValueError("feedback: %s has to be a text" % name)
    return value


def _dict(name, value):
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("feedback: %s has to be a dict with texts as keys" % name)
    return value


def _chunk(chunk):
    if isinstance(chunk, FeedbackChunk) or (not isinstance(chunk, dict) and hasattr(chunk, "model_dump")):
        chunk = chunk.model_dump()
    if not isinstance(chunk, dict):
        raise ValueError("feedback: a chunk has to be a dict")
    chunk = {key: value for key, value in chunk.items() if value is not None}
    unknown = set(chunk) - set(FeedbackChunk._fields)
    if unknown:
        raise ValueError("feedback: a chunk has no %s" % ", ".join(sorted(map(str, unknown))))
    channel = chunk.get("channel", Channel.log)
    try:
        chunk["channel"] = Channel(channel.value if isinstance(channel, enum.Enum) else channel).value
    except ValueError:
        raise ValueError("feedback: %r is no channel; there are %s" % (channel, ", ".join(c.value for c in Channel))) from None
    index = chunk.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 1 << 63):
        raise ValueError("feedback: the index of a chunk has to be a whole number from 0 on")
    for name in ("mime_type", "text", "data_base64"):
        _text(name + " of a chunk", chunk.get(name))
    _dict("metadata of a chunk", chunk.get("metadata"))
    return chunk


def checked(stage=None, progress=None, message=None, chunks=None, metrics=None, metadata=None):
    """One piece of feedback as it is sent."""
    out = {}
    if _text("stage", stage) is not None:
        if not stage:
            raise ValueError("feedback: stage must not be empty")
        out["stage"] = stage
    if progress is not None:
        if isinstance(progress, bool) or not isinstance(progress, (int, float)) or not 0 <= progress <= 1:
            raise ValueError("feedback: progress has to be a number from 0 to 1, and is %r" % (progress,))
        out["progress"] = float(progress)
    if _text("message", message) is not None:
        out["message"] = message
    if chunks:
        out["chunks"] = [_chunk(chunk) for chunk in chunks]
    if _dict("metrics", metrics):
        for name, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError("feedback: the metric %s has to be a number" % name)
        out["metrics"] = metrics
    if _dict("metadata", metadata):
        out["metadata"] = metadata
    return out


# Pieces with chunks that are sent before the event loop gets a turn.
_TURN_EVERY = 16


class _Waiter:
    """Somebody who waits on any event loop for something that is set from any thread."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.create_future()

    async def wait(self):
        await self._future

    def set(self):
        try:
            self._loop.call_soon_threadsafe(lambda: self._future.done() or self._future.set_result(None))
        except RuntimeError:
            pass  # The loop is closed: nobody waits there any more.


class FeedbackPublisher:
    """What a handler has as `context.feedback`. Every method may be called from any thread."""

    def __init__(self, host, call):
        self._host = host
        self._call = call
        self._paused = False
        self._lock = threading.Lock()
        self._waiters = []
        self._since_turn = 0

    async def send(self, *, stage=None, progress=None, message=None, chunks=None, metrics=None, metadata=None):
        """Sends feedback. Waits while whoever takes it is behind with the chunks."""
        piece = checked(stage, progress, message, chunks, metrics, metadata)
        if piece.get("chunks"):
            await self._room()
        self._host.feedback(self._call, piece)
        if not piece.get("chunks"):
            return
        # A handler that only sends has to let the event loop hear of a pause, too.
        self._since_turn += 1
        waiter = _Waiter()
        if self._host.unsent(waiter):
            self._since_turn = 0
            await waiter.wait()
        elif self._since_turn >= _TURN_EVERY:
            self._since_turn = 0
            await asyncio.sleep(0)

    def send_nowait(self, *, stage=None, progress=None, message=None, chunks=None, metrics=None, metadata=None):
        """The same without waiting; chunks may be left out where whoever takes them is far behind."""
        self._host.feedback(self._call, checked(stage, progress, message, chunks, metrics, metadata))

    async def emit_text(self, text, *, channel=Channel.log, stage=None, progress=None, metadata=None):
        """Sends a chunk of text."""
        chunk = {"channel": channel, "text": text}
        if metadata:
            chunk["metadata"] = metadata
        await self.send(stage=stage, progress=progress, chunks=[chunk])

    async def _room(self):
        with self._lock:
            if not self._paused:
                return
            waiter = _Waiter()
            self._waiters.append(waiter)
        await waiter.wait()

    def _pause(self, paused):
        with self._lock:
            self._paused = paused
            waiters, self._waiters = ([], self._waiters) if paused else (self._waiters, [])
        for waiter in waiters:
            waiter.set()
