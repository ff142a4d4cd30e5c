"""Modules that packages written for the existing worker import: its names, on what this host has."""

import os
import sys
import types

from longshore_host.context import ExecutionContext
from longshore_host.feedback import Channel, FeedbackChunk


def install(directory):
    _module(directory, "worker.execution", ExecutionContext=ExecutionContext)
    _module(directory, "worker.execution.context", ExecutionContext=ExecutionContext)
    _module(directory, "worker.agent.runner", ExecutionContext=ExecutionContext)
    _module(directory, "worker.agent.runner.context", ExecutionContext=ExecutionContext)
    _module(directory, "shared.models.biz.exec.feedback", Channel=Channel, FeedbackChunk=FeedbackChunk)
    _module(directory, "shared.models.ws.feedback", FeedbackChannel=Channel, FeedbackChunk=FeedbackChunk)


def _module(directory, name, **content):
    parent = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        module = sys.modules.get(path)
        if module is None:
            module = types.ModuleType(path, "Part of the handler host, for packages of the existing worker.")
            # A package may have modules of its own below such a name.
            own = os.path.join(directory, *parts[:end])
            module.__path__ = [own] if os.path.isdir(own) else []
            sys.modules[path] = module
        if parent is not None:
            setattr(parent, parts[end - 1], module)
        parent = module
    vars(parent).update(content)
