"""Coroutine handlers, with the imports packages of the existing worker have."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import logging
import pathlib
import uuid

from shared.models.biz.exec.feedback import Channel, FeedbackChunk
from shared.models.ws.feedback import FeedbackChannel
from worker.agent.runner import ExecutionContext as FromRunner
from worker.agent.runner.context import ExecutionContext as FromContext
from worker.execution import ExecutionContext

from adapters import helper

logger = logging.getLogger(__name__)


async def run(context: ExecutionContext):
    return {"status": "succeeded", "outputs": dict(context.params)}


async def context_seen(context: ExecutionContext):
    assert FromRunner is FromContext is ExecutionContext is type(context)
    assert FeedbackChannel is Channel
    assert isinstance(context.data_dir, pathlib.Path) and context.data_dir.is_dir()
    (context.data_dir / "file").write_text("x")
    fields = ("run_id", "task_id", "node_id", "package_name", "package_version", "params", "tenant")
    fields += ("host_node_id", "middleware_chain", "chain_index", "trace", "metadata", "resource_refs", "leased_resources")
    seen = {name: getattr(context, name) for name in fields}
    seen.update(data_dir=context.data_dir, helper=helper.WHOSE)
    return {"outputs": seen, "metadata": {"own": 1}}


async def feedback_demo(context: ExecutionContext):
    if context.feedback:
        await context.feedback.send(
            stage="first",
            progress=0.25,
            message="begun",
            chunks=[
                {"text": "without a channel"},
                {"channel": Channel.llm.value, "index": 3, "text": "token", "mime_type": "text/plain", "metadata": {"a": 1}},
                FeedbackChunk(channel=FeedbackChannel.custom, text="an object"),
            ],
            metrics={"speed": 1.5},
            metadata={"results": {"partial": True}},
        )
        await context.feedback.emit_text("emitted", channel=Channel.stdout, progress=0.5)
        context.feedback.send_nowait(progress=1.0)
    refused = []
    wrong = [{"progress": 1.5}, {"chunks": [{"channel": "radio", "text": "x"}]}, {"metrics": {"m": "fast"}}, {"stage": ""}]
    for fields in wrong + [{"chunks": [{"index": -1}]}, {"metadata": [1]}, {"message": 7}, {"progress": True}]:
        try:
            await context.feedback.send(**fields)
        except ValueError as error:
            refused.append(str(error))
    await asyncio.sleep(0)
    return {"outputs": {"refused": refused}}


class Colour(enum.Enum):
    red = "rot"


async def odd_values(context: ExecutionContext):
    return {
        "outputs": {
            "bytes": b"text",
            "set": {1},
            "path": pathlib.PurePosixPath("/a/b"),
            "date": datetime.date(2024, 2, 29),
            "time": datetime.datetime(2024, 2, 29, 12, 0, tzinfo=datetime.timezone.utc),
            "span": datetime.timedelta(seconds=90),
            "uuid": uuid.UUID(int=1),
            "enum": Colour.red,
            "decimal": [decimal.Decimal("1.5"), decimal.Decimal(3)],
            "nan": [float("nan"), float("inf"), 1.0],
            "tuple": (1, "ü"),
            "keys": {1: "one", None: "none", Colour.red: "enum"},
        }
    }
