"""Counts the words of a text, and says how far it is."""

import collections
import json


async def count(context):
    text = context.params.get("text")
    if not isinstance(text, str):
        raise ValueError("text is missing, or is no text")
    lines = text.splitlines()
    words = collections.Counter()
    for number, line in enumerate(lines, start=1):
        words.update(line.lower().split())
        await context.feedback.send(stage="counting", progress=number / len(lines))
    print("counted", sum(words.values()), "words")
    # Files of the task: they stay for a week, unless the host's settings say otherwise.
    (context.data_dir / "words.json").write_text(json.dumps(words))
    return {"outputs": {"lines": len(lines), "words": sum(words.values()), "most": words.most_common(1)}}
