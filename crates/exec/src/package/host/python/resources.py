"""The worker's resources, as a handler sees them: what this host has registered, and what its tasks have leased."""

import os
import pathlib
import threading
import time


class ResourceHandle:
    """A resource on this worker."""

    def __init__(self, resource_id, type, scope=None, path=None, metadata=None, size_bytes=None, expires_at=None, created_at=None):
        self.resource_id = resource_id
        self.type = type
        self.scope = scope
        self.path = pathlib.Path(path) if isinstance(path, str) else path
        self.metadata = dict(metadata or {})
        self.size_bytes = size_bytes
        self.created_at = time.time() if created_at is None else created_at
        self.expires_at = expires_at
        self.in_use = 0
        self.state = "active"

    def _wire(self):
        return {
            "resource_id": self.resource_id,
            "type": self.type,
            "scope": self.scope,
            "path": None if self.path is None else str(self.path),
            "metadata": self.metadata,
            "size_bytes": self.size_bytes,
            "expires_at": _time_text(self.expires_at),
            "created_at": self.created_at,
        }


def _time_text(moment):
    return moment.isoformat() if hasattr(moment, "isoformat") else moment


def _seconds(moment):
    if moment is None or isinstance(moment, (int, float)):
        return moment
    if hasattr(moment, "timestamp"):
        return moment.timestamp()
    try:
        import datetime

        return datetime.datetime.fromisoformat(str(moment).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


class ResourceRegistry:
    """What a handler has as `context.resource_registry`. Every method may be called from any thread."""

    def __init__(self, host, worker_name, base):
        self._host = host
        self._worker_name = worker_name
        self._base = base
        self._lock = threading.RLock()
        self._handles = {}

    def register(self, *, resource_id, resource_type, scope=None, path=None, metadata=None, size_bytes=None, expires_at=None):
        """Makes a resource known on this worker; one of the same id is replaced."""
        if not isinstance(resource_id, str) or not resource_id or not isinstance(resource_type, str) or not resource_type:
            raise ValueError("a resource needs an id and a type, both of them texts")
        handle = ResourceHandle(resource_id, resource_type, scope, path, metadata, size_bytes, expires_at)
        self._host.resource(handle._wire())
        with self._lock:
            self._handles[resource_id] = handle
        return handle

    def register_file(self, *, resource_id, file_path, resource_type="file", scope=None, metadata=None, size_bytes=None, expires_at=None):
        """The same for a file: its path, relative path and size are filled in."""
        path = pathlib.Path(file_path).absolute()
        try:
            relative = str(path.relative_to(self._base))
        except ValueError:
            relative = path.name
        metadata = {**(metadata or {}), "path": str(path), "relative_path": relative}
        if size_bytes is None and path.exists():
            size_bytes = os.stat(path).st_size
        return self.register(
            resource_id=resource_id,
            resource_type=resource_type,
            scope=scope,
            path=path,
            metadata=metadata,
            size_bytes=size_bytes,
            expires_at=expires_at,
        )

    def lease(self, resource_id):
        with self._lock:
            handle = self._handles[resource_id]
            handle.in_use += 1
            return handle

    def release(self, resource_id, reason=None):
        with self._lock:
            handle = self._handles.get(resource_id)
            if handle is not None and handle.in_use > 0:
                handle.in_use -= 1

    def touch(self, resource_id, expires_at=None):
        with self._lock:
            handle = self._handles[resource_id]
            handle.expires_at = expires_at
        self._host.resource(handle._wire())
        return handle

    def release_scope(self, scope):
        with self._lock:
            gone = [handle for handle in self._handles.values() if handle.scope == scope]
        return self._evict(gone)

    def list(self, scope=None, resource_type=None):
        with self._lock:
            handles = list(self._handles.values())
        return [h for h in handles if (scope is None or h.scope == scope) and (resource_type is None or h.type == resource_type)]

    def gc(self, now=None):
        """Drops what has expired and is in nobody's use."""
        now = time.time() if now is None else _seconds(now)
        with self._lock:
            gone = [h for h in self._handles.values() if not h.in_use and h.expires_at and (_seconds(h.expires_at) or now) <= now]
        return self._evict(gone)

    def to_artifact_descriptor(self, resource_id, inline=None):
        with self._lock:
            handle = self._handles[resource_id]
        described = {"resource_id": handle.resource_id, "worker_name": self._worker_name, "type": handle.type}
        extra = (("size_bytes", handle.size_bytes), ("inline", inline), ("expires_at", _time_text(handle.expires_at)))
        described.update({name: value for name, value in extra if value is not None})
        if handle.metadata:
            described["metadata"] = dict(handle.metadata)
        return described

    def _evict(self, handles):
        for handle in handles:
            handle.state = "evicted"
            with self._lock:
                self._handles.pop(handle.resource_id, None)
            self._host.resource({"evicted": handle.resource_id})
        return [handle.resource_id for handle in handles]

    def _adopt(self, wire):
        """A handle that the task came with."""
        with self._lock:
            handle = self._handles.get(wire["resource_id"])
            if handle is None or handle._wire() != wire:
                # Another host may have registered it anew since this one saw it.
                names = ("scope", "path", "metadata", "size_bytes", "expires_at", "created_at")
                newer = ResourceHandle(wire["resource_id"], wire["type"], **{name: wire.get(name) for name in names})
                newer.in_use = 0 if handle is None else handle.in_use
                handle = self._handles[wire["resource_id"]] = newer
            handle.in_use += 1
            return handle
