"""A user's connection broke with "please report" because of the words in somebody's error reply.

The numbers of an error travel under names, and become keyword arguments: the names `message` and `self` raised a TypeError
in the link, which cost the connection and every operation on it. A thousand lists inside each other decoded too, and raised a
RecursionError when the error was logged. Found by tests/fuzz.
"""

from __future__ import annotations

import msgpack
import pytest

from kvstore.errors import InternalError, Overloaded, error_from_wire, error_to_wire


@pytest.mark.parametrize("code", ["overloaded", "of_the_future"])
@pytest.mark.parametrize("name", ["message", "self", "code", "details", "args"])
def test_an_error_may_name_its_numbers_as_it_likes(code: str, name: str) -> None:
    """It is decoded, can be shown, and travels on."""
    error = error_from_wire(msgpack.packb([code, "why", {name: 7}]))

    assert type(error) is (Overloaded if code == "overloaded" else InternalError)
    assert error.details == {name: 7} and str(error)
    assert error_from_wire(error_to_wire(error)).details == error.details


@pytest.mark.parametrize("bomb", [b"\x91" * 1_000 + b"\xc0", b"\x81\xa1a" * 1_000 + b"\xc0", b"\x91\x91\x01"])
def test_an_error_whose_numbers_nest_is_unreadable(bomb: bytes) -> None:
    """Scalars, and lists of them, are all that an error carries; what says otherwise can be shown nevertheless."""
    error = error_from_wire(b"\x93\xaaoverloaded\xa3why\x81\xa1x" + bomb)

    assert type(error) is InternalError and "unreadable error reply" in str(error)
