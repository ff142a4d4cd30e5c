"""The least that a Python handler can cost: a line in, a line out. The floor of `bench worker`."""

import json
import sys

for line in sys.stdin:
    call = json.loads(line)
    sys.stdout.write(json.dumps({"n": call["n"], "result": call["params"]}) + "\n")
    sys.stdout.flush()
