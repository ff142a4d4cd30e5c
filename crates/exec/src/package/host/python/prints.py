"""What handlers print and log: told apart by task where somebody wants it, and passed on below where nobody does."""

import contextvars
import json
import threading

CALL = contextvars.ContextVar("longshore_call", default=None)

_PIECE_CHARACTERS = 8192
_CHARACTERS_MAX = 64 << 20


class Stream:
    """Stands in for `sys.stdout` or `sys.stderr`."""

    def __init__(self, below, name, host):
        self._below = below
        self._name = name
        self._host = host

    def write(self, text):
        call = CALL.get()
        if call is None or not isinstance(text, str) or not self._host.printed(call, self._name, text):
            return self._below.write(text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        return getattr(self._below, name)


class Taker:
    """Takes what one task prints, from any thread, and sends it in lines or larger pieces."""

    def __init__(self, send):
        self._send = send
        self._lock = threading.RLock()
        self._waiting = {"stdout": "", "stderr": ""}
        self._left = _CHARACTERS_MAX
        self._cut = False
        self._ended = False

    def take(self, stream, text):
        with self._lock:
            if self._ended:
                return False
            fits, self._left = text[: self._left], max(0, self._left - len(text))
            self._waiting[stream] += fits
            if len(fits) < len(text) and not self._cut:
                self._cut = True
                self._waiting[stream] += "\n[longshore] more output than is kept: the rest is cut, the handler goes on\n"
            if "\n" in self._waiting[stream] or len(self._waiting[stream]) >= _PIECE_CHARACTERS:
                self._pass_on(stream)
            return True

    def end(self):
        with self._lock:
            self._ended = True
            for stream in self._waiting:
                self._pass_on(stream)

    def _pass_on(self, stream):
        text, self._waiting[stream] = self._waiting[stream], ""
        for at in range(0, len(text), _PIECE_CHARACTERS):
            piece = {"stream": stream, "text": text[at : at + _PIECE_CHARACTERS]}
            self._send(json.dumps(piece, ensure_ascii=False).encode("utf-8", "replace"))
