"""The tree of errors."""

import inspect
import re

import replicator.errors as errors

CLASSES = [
    value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, errors.ReplicatorError)
]


def test_every_class_stands_in_the_tree() -> None:
    """The docstring's tree names each class with its exit code."""
    tree = dict(re.findall(r"([A-Z]\w+) +(\d+|as)", errors.__doc__ or ""))
    for cls in CLASSES:
        assert cls.__name__ in tree
        assert tree[cls.__name__] in (str(cls.exit_code), "as")


def test_exit_codes_are_the_documented_ones() -> None:
    """No class invents a code."""
    assert {cls.exit_code for cls in CLASSES} == {1, 2, 3, 4, 5, 6, 7, 8, 9, 130}


def test_integrity_is_neither_retryable_nor_absent() -> None:
    """Damage is never retried and never read as missing."""
    assert not errors.IntegrityError.retryable
    assert not issubclass(errors.IntegrityError, errors.NotFound)
    assert not issubclass(errors.ObjectAbsent, errors.StoreUnavailable)


def test_json_form() -> None:
    """A failure's JSON has type, message, hint and exit code."""
    error = errors.WalConflict("two contents", hint="Look.", segment="x")
    assert error.as_json() == {"type": "WalConflict", "message": "two contents", "hint": "Look.", "exit_code": 8}
    assert error.context == {"segment": "x"}
