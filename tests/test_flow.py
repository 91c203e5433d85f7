"""Threads that work ahead and behind: order, bounds, errors."""

import threading

import pytest

from lancedb_ft.flow import ahead, behind


def test_one_item_is_made_while_the_one_before_is_used():
    made = []
    second = threading.Event()

    def items():
        for number in range(4):
            made.append((number, threading.current_thread().name))
            if number == 1:
                second.set()
            yield number

    with ahead(items()) as found:
        assert next(found) == 0
        assert second.wait(5)  # made before anyone asked for it
        assert [number for number, _ in made] == [0, 1]  # and no more than it
        assert list(found) == [1, 2, 3]
    assert all(name.startswith("ahead") for _, name in made)


def test_what_fails_ahead_is_raised_in_its_place():
    def items():
        yield 1
        raise OSError("the disk is gone")

    with ahead(items()) as found:
        assert next(found) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(found)


def test_leaving_early_ends_the_thread():
    with ahead(iter(range(10**9))) as found:
        assert next(found) == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_everything_is_written_in_order_before_the_end():
    written = []
    with behind(written.append) as put:
        for number in range(100):
            put(number)
    assert written == list(range(100))


@pytest.mark.parametrize("n_more", [0, 1, 5])
def test_what_fails_behind_is_raised(n_more):
    def write(number):
        if number == 0:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), behind(write) as put:  # noqa: PT012
        for number in range(1 + n_more):
            put(number)


def test_an_error_of_the_caller_writes_no_more():
    begun, go_on, written = threading.Event(), threading.Event(), []

    def write(number):
        begun.set()
        assert go_on.wait(5)
        written.append(number)

    with pytest.raises(KeyboardInterrupt), behind(write, depth=3) as put:  # noqa: PT012
        put(1)
        put(2)
        put(3)
        assert begun.wait(5)
        threading.Timer(0.05, go_on.set).start()
        raise KeyboardInterrupt
    assert written == [1]
