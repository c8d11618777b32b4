"""Strict parsers that accept one spelling only. With lenient ones, two programs could see two different tokens."""

import base64
import hashlib
import json
import math
import re
from datetime import datetime
from typing import Any

Object = dict[str, Any]


def sha256(data: bytes) -> str:
    """Lower-case hex, as all of Gaia's fingerprints and hashes are."""
    return hashlib.sha256(data).hexdigest()


class NameRepeated(ValueError):
    """A JSON object has a repeated name."""


def json_object(data: bytes) -> Object:
    """Parses one JSON object in UTF-8; NameRepeated if an object has a repeated name, ValueError for anything else."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        _check_depth(value, MAX_DEPTH)
        # "\ud800" alone is half a character: Python parses it, and fails where it is first encoded.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def base64url(text: str) -> bytes:
    """Decodes base64url without padding (RFC 7515, appendix C), in its one spelling; ValueError for any other."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # Set bits beyond the last byte would be a second spelling of the same value.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise ValueError("not base64url")
    return data


def timestamp(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return time.timestamp()


def versioned(data: bytes, name: str) -> Object:
    """Reads a mounted JSON file: this program reads schemaVersion 1, the first there is; later ones also the one before."""
    document = json_object(data)
    if document.get("schemaVersion") != SCHEMA_VERSION:
        raise ValueError(f"{name} has schemaVersion {document.get('schemaVersion')}, this program reads {SCHEMA_VERSION}")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NameRepeated("a name is repeated")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _check_depth(value: Any, left: int) -> None:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if members is not None and left == 0:
        raise ValueError("nested too deeply")
    for member in members or ():
        _check_depth(member, left - 1)


MAX_DEPTH = 127
SCHEMA_VERSION = 1
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
