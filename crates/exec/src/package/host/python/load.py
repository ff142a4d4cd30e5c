"""From a node's entrypoint and handler to something that can be called with a context."""

import functools
import importlib
import importlib.util
import inspect
import os
import sys


class NotLoaded(Exception):
    """The handler of a node type could not be loaded; the message says why."""


class Loaded:
    """A handler, and whether it is a coroutine function."""

    def __init__(self, function):
        self.function = function
        self.is_coroutine = _is_coroutine(function)


def load(directory, entrypoint, handler):
    """Imports the module and finds the handler in it. What the module raises is raised."""
    module_name, _, attribute = entrypoint.partition(":")
    if not attribute:
        path = [handler]
    else:
        path = attribute.split(".")
        if path[-1] != handler:
            path.append(handler)
    module = _import(directory, module_name)
    return Loaded(_callable(_find(module, module_name, path)))


def _import(directory, name):
    base = os.path.join(directory, *name.split("."))
    file = next((file for file in (base + ".py", os.path.join(base, "__init__.py")) if os.path.isfile(file)), None)
    if file is None:
        raise NotLoaded("the package has no module %s: there is neither %s.py nor a directory of that name" % (name, name.replace(".", "/")))
    known = sys.modules.get(name)
    if known is None or _is_from(known, file):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A directory that another module of this name hides, as `json/tool.py` would be.
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise
        else:
            if _is_from(module, file):
                return module
    # The name is taken by something else that is in use already, such as a module of Python itself.
    alias = "longshore_package." + name
    if alias in sys.modules:
        return sys.modules[alias]
    places = [os.path.dirname(file)] if file.endswith("__init__.py") else None
    spec = importlib.util.spec_from_file_location(alias, file, submodule_search_locations=places)
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(alias, None)
        raise
    return module


def _is_from(module, file):
    try:
        return os.path.samefile(getattr(module, "__file__", None) or "", file)
    except OSError:
        return False


def _find(module, module_name, path):
    found = module
    for step, name in enumerate(path):
        try:
            raw = inspect.getattr_static(found, name, None)
            if inspect.isclass(found) and not isinstance(raw, (staticmethod, classmethod, type)):
                # A method wants somebody it belongs to.
                found = _instance(found)
            found = getattr(found, name)
        except AttributeError:
            raise NotLoaded("the module %s has no %s" % (module_name, ".".join(path[: step + 1]))) from None
    return found


@functools.lru_cache(maxsize=None)
def _instance(cls):
    try:
        return cls()
    except TypeError as error:
        raise NotLoaded("the class %s cannot be made without arguments: %s" % (cls.__name__, error)) from None


def _callable(found):
    if inspect.isclass(found) and (callable(getattr(found, "async_run", None)) or callable(getattr(found, "run", None))):
        found = _instance(found)
    for name in ("async_run", "run"):
        method = getattr(found, name, None)
        if callable(method):
            return method
    if not callable(found):
        raise NotLoaded("the handler is %s, which cannot be called" % type(found).__name__)
    return found


def _is_coroutine(function):
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(type(function), "__call__", None))
