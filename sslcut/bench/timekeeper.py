"""Run one command and write its wall seconds, its peak memory and its exit code to a file: the watch of `processes`.

A process of its own, without sslcut and torch: a child counts the memory of the process that started it as its own
until it has replaced it (Linux keeps the larger), so that one must be small. Started as
`python -I timekeeper.py FILE COMMAND…`.
"""

import json
import os
import sys
import time


def main() -> None:
    """Time the command in `sys.argv` and write what was found."""
    started = time.perf_counter()
    child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    found = {"seconds": seconds, "peak": 1024 * usage.ru_maxrss, "code": os.waitstatus_to_exitcode(status)}
    with open(sys.argv[1], "w", encoding="ascii") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
