#!/usr/bin/env python3
"""A program that stays: a line for each frame, in both directions."""

import json
import os
import sys
import time


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
    elif params.get("do") == "deaf":
        os.close(0)
        send("returned", call, {"value": {"deaf": True}})
        time.sleep(1000)
    elif params.get("do") == "nan":
        send("returned", call, {"value": {"number": float("nan")}})
    elif params.get("do") == "stray":
        send("next", 7777, {"number": 1, "request": {"payload": {}, "host_ctx": {}, "middleware_ctx": {}}})
        send("returned", call, {"value": {"pid": os.getpid()}})
    elif params.get("do") == "prints":
        for _ in range(3):
            send("printed", call, {"stream": "stdout", "text": "x" * 50000})
        send("returned", call, {"value": {}})
    elif params.get("do") == "bad_next":
        waiting[2] = (call, 2)
        send("next", call, {"number": 2, "request": {"payload": 1}})
    elif params.get("do") == "next":
        waiting[1] = (call, 1)
        send("next", call, {"number": 1, "request": {"payload": {"a": 1}, "host_ctx": {}, "middleware_ctx": {}}})
    else:
        send("feedback", call, {"progress": 0.5, "chunks": [{"channel": "log", "text": "half"}]})
        send("returned", call, {"ms": 3, "value": {"pid": os.getpid(), "params": params}})
