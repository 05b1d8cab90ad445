"""Whether a method learns from labels, read off a recipe without torch."""

from collections.abc import Mapping
from typing import Any

from sslcut.registry import METHODS


def uses_labels(method: Mapping[str, Any]) -> bool:
    """Whether the method that a recipe's `method` section describes is given labels."""
    return METHODS.literal(method["name"], "uses_labels", False) or method.get("negatives") == "mask_same_label"
