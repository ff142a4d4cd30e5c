"""Modules that packages written for the existing worker import: its names, on what this host has."""

import sys
import types

from longshore_host.context import ExecutionContext
from longshore_host.feedback import Channel, FeedbackChunk


def install():
    _module("worker.execution", ExecutionContext=ExecutionContext)
    _module("worker.execution.context", ExecutionContext=ExecutionContext)
    _module("worker.agent.runner", ExecutionContext=ExecutionContext)
    _module("worker.agent.runner.context", ExecutionContext=ExecutionContext)
    _module("shared.models.biz.exec.feedback", Channel=Channel, FeedbackChunk=FeedbackChunk)
    _module("shared.models.ws.feedback", FeedbackChannel=Channel, FeedbackChunk=FeedbackChunk)


def _module(name, **content):
    parent = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        module = sys.modules.get(path)
        if module is None:
            module = types.ModuleType(path, "Part of the handler host, for packages of the existing worker.")
            module.__path__ = []
            sys.modules[path] = module
        if parent is not None:
            setattr(parent, parts[end - 1], module)
        parent = module
    vars(parent).update(content)
