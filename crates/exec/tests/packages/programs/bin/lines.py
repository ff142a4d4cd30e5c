#!/usr/bin/env python3
"""A program that stays: a line for each frame, in both directions."""

import json
import os
import sys


def send(kind, call, payload):
    sys.stdout.write(json.dumps({"kind": kind, "call": call, "payload": payload}) + "\n")
    sys.stdout.flush()


waiting = {}
for line in sys.stdin:
    frame = json.loads(line)
    call, payload = frame["call"], frame["payload"]
    if frame["kind"] == "quit":
        break
    if frame["kind"] == "stop":
        send("stopping", call, {})
        send("failed", call, {"kind": "cancelled", "message": "stopped"})
        continue
    if frame["kind"] == "next":
        original, number = waiting.pop(payload["number"])
        send("returned", original, {"value": {"next": payload.get("result"), "error": payload.get("error")}})
        continue
    if frame["kind"] != "call":
        continue
    params = payload["context"]["params"]
    if params.get("do") == "fail":
        send("failed", call, {"kind": "raised", "type": "Oops", "message": "it went wrong"})
    elif params.get("do") == "nonsense":
        sys.stdout.write("this is no line of ours\n")
        sys.stdout.flush()
    elif params.get("do") == "exit":
        sys.stderr.write("leaving\n")
        sys.exit(4)
    elif params.get("do") == "hang":
        with open(os.path.join(payload["context"]["data_dir"], "begun"), "w") as file:
            file.write("%d\n" % os.getpid())
    elif params.get("do") == "next":
        waiting[1] = (call, 1)
        send("next", call, {"number": 1, "request": {"payload": {"a": 1}, "host_ctx": {}, "middleware_ctx": {}}})
    else:
        send("feedback", call, {"progress": 0.5, "chunks": [{"channel": "log", "text": "half"}]})
        send("returned", call, {"ms": 3, "value": {"pid": os.getpid(), "params": params}})
