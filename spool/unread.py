"""Fields that are made when they are asked for, once.

Diagnostics: raises nothing of its own.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, Self, TypeVar, overload

_Value = TypeVar("_Value")


class HasSections(Protocol):
    """An object with something that makes its fields: one method for each, named as the field."""

    _unread: Any


class Unread(Generic[_Value]):
    """A field of a class whose instances may have ``_unread`` instead of a value for it.

    As functools.cached_property, without the lock that this takes in Python 3.11: two
    threads that ask at once make equal values.
    """

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: HasSections, owner: type) -> _Value: ...
    def __get__(self, instance: HasSections | None, owner: type) -> Self | _Value:
        if instance is None:
            return self
        value: _Value = getattr(instance._unread, self._name)()
        instance.__dict__[self._name] = value
        return value
