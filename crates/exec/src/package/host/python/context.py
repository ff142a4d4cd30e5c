"""What a handler is given: one `ExecutionContext`."""

import asyncio
import concurrent.futures
import pathlib


class NextError(RuntimeError):
    """`next()` has no answer."""

    def __init__(self, message, code, trace=None):
        super().__init__(message)
        self.code = code
        self.trace = trace


class ResourceRef:
    """A reference to a resource, as the task came with it."""

    def __init__(self, resource_id, worker_name=None, type=None, scope=None, expires_at=None, metadata=None):
        self.resource_id = resource_id
        self.worker_name = worker_name
        self.type = type
        self.scope = scope
        self.expires_at = expires_at
        self.metadata = metadata


class ExecutionContext:
    """The task a handler runs for."""

    def __init__(
        self,
        run_id=None,
        task_id=None,
        node_id=None,
        package_name=None,
        package_version=None,
        params=None,
        data_dir=None,
        tenant=None,
        host_node_id=None,
        middleware_chain=None,
        chain_index=None,
        trace=None,
        metadata=None,
        resource_refs=None,
        resource_registry=None,
        leased_resources=None,
        feedback=None,
        next_handler=None,
    ):
        self.run_id = run_id
        self.task_id = task_id
        self.node_id = node_id
        self.package_name = package_name
        self.package_version = package_version
        self.params = {} if params is None else params
        self.data_dir = pathlib.Path(data_dir) if isinstance(data_dir, str) else data_dir
        self.tenant = tenant
        self.host_node_id = host_node_id
        self.middleware_chain = middleware_chain
        self.chain_index = chain_index
        self.trace = trace
        self.metadata = {} if metadata is None else metadata
        self.resource_refs = resource_refs
        self.resource_registry = resource_registry
        self.leased_resources = {} if leased_resources is None else leased_resources
        self.feedback = feedback
        self.next_handler = next_handler

    async def next(self, payload=None, *, host_ctx=None, middleware_ctx=None, timeout_ms=None):
        """Runs the next element of the chain and gives its result. May be called repeatedly, and from any event loop."""
        if self.next_handler is None or not self.middleware_chain or self.chain_index is None:
            raise RuntimeError("next() needs a chain of middlewares, and this task is in none")
        return await self.next_handler(payload, host_ctx=host_ctx, middleware_ctx=middleware_ctx, timeout_ms=timeout_ms)


class NextCaller:
    """What a handler has as `context.next_handler`."""

    def __init__(self, host, call):
        self._host = host
        self._call = call

    async def __call__(self, payload=None, *, host_ctx=None, middleware_ctx=None, timeout_ms=None):
        for name, value in (("payload", payload), ("host_ctx", host_ctx), ("middleware_ctx", middleware_ctx)):
            if value is not None and not isinstance(value, dict):
                raise TypeError("next(): %s has to be a dict" % name)
        if timeout_ms is not None and (isinstance(timeout_ms, bool) or not isinstance(timeout_ms, (int, float))):
            raise TypeError("next(): timeout_ms has to be a number")
        timeout_ms = int(timeout_ms) if timeout_ms and timeout_ms > 0 else None
        request = {"payload": payload or {}, "host_ctx": host_ctx or {}, "middleware_ctx": middleware_ctx or {}, "timeout_ms": timeout_ms}
        # A concurrent future, as the caller's event loop need not be the host's.
        answer = concurrent.futures.Future()
        number = self._host.ask_next(self._call, request, answer)
        try:
            waiting = asyncio.wrap_future(answer)
            if timeout_ms is None:
                reply = await waiting
            else:
                reply = await asyncio.wait_for(waiting, timeout_ms / 1000)
        except asyncio.TimeoutError:
            raise NextError("the next element gave no answer within %d ms" % timeout_ms, "next_timeout") from None
        finally:
            self._host.forget_next(number)
        error = reply.get("error")
        if error is not None:
            raise NextError(error.get("message") or error.get("code"), error.get("code"), error.get("trace"))
        return reply.get("result") or {}
