"""JSON as the frames carry it: what handlers return, whatever it is made of, or an error that says what cannot be sent."""

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import uuid
from collections import deque


class NotEncodable(Exception):
    """A value that has no form in JSON."""


def _plain(value):
    """What the encoder does not know itself."""
    for method in ("model_dump", "dict"):
        dump = getattr(value, method, None)
        if callable(dump) and (hasattr(type(value), "__pydantic_fields__") or hasattr(type(value), "__fields__")):
            return dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise NotEncodable("bytes that are not UTF-8 text; encode them, for example as base64") from None
    if isinstance(value, (set, frozenset, deque)):
        return list(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (pathlib.PurePath, uuid.UUID)):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent >= 0 else float(value)
    if hasattr(value, "__next__"):
        raise NotEncodable("an iterator (%s); make a list of it" % type(value).__name__)
    if hasattr(value, "keys") and hasattr(value, "__getitem__"):
        return {key: value[key] for key in value.keys()}
    raise NotEncodable("an object of the type %s" % type(value).__name__)


def _thorough(value, depth=0):
    """The same value of dicts, lists, texts and finite numbers only."""
    if depth > 100:
        raise NotEncodable("something that is nested more than 100 levels deep, or contains itself")
    if value is None or isinstance(value, (bool, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return _thorough(value.value, depth + 1)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): _thorough(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_thorough(item, depth + 1) for item in value]
    return _thorough(_plain(value), depth + 1)


def _key(key):
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    if isinstance(key, tuple):
        raise NotEncodable("a dict with tuples as keys")
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


_quick = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode
_careful = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value):
    """Bytes of JSON. NaN and the infinities become null, as JSON has no word for them."""
    try:
        try:
            text = _quick(value)
        except (TypeError, ValueError, NotEncodable):
            text = _careful(_thorough(value))
        return text.encode("utf-8")
    except NotEncodable:
        raise
    except UnicodeEncodeError:
        raise NotEncodable("a text with half a character (a lone surrogate)") from None
    except RecursionError:
        raise NotEncodable("something that is nested too deeply") from None
    except MemoryError:
        raise NotEncodable("more than there is memory for") from None
    except Exception as error:
        raise NotEncodable("something whose reading fails: %s: %s" % (type(error).__name__, error)) from None


def to_base64(data):
    return base64.b64encode(data).decode("ascii")
