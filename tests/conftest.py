"""Every test must leave the process as it found it: no thread, no file descriptor, no event loop running."""

import asyncio
import gc
import os
import threading

import pytest


def open_descriptors():
    """Descriptor -> what it is. The one that lists the directory is gone again, so it is left out."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def lasting_threads():
    return {thread for thread in threading.enumerate() if not thread.daemon}


@pytest.fixture(autouse=True, scope="session")
def uvloop_has_its_pipe():
    """libuv makes one pipe per process, for signals, in its first loop; it is no test's fault."""
    try:
        import uvloop
    except ImportError:
        return
    loop = uvloop.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture(autouse=True)
def leaves_nothing_behind():
    threads = lasting_threads()
    descriptors = open_descriptors()
    yield
    new_threads = lasting_threads() - threads
    new_descriptors = open_descriptors().items() - descriptors.items()
    if new_descriptors:  # perhaps only waiting for the collector; anything else is a leak
        gc.collect()
        new_descriptors = open_descriptors().items() - descriptors.items()
    assert not new_threads, f"threads left behind: {new_threads}"
    assert not new_descriptors, f"file descriptors left behind: {sorted(new_descriptors)}"
