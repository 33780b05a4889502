"""Run a command and tell its time and its memory."""

import subprocess
import sys

# A small process starts the command: a child counts the memory of the one it was forked from.
WATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
seconds = time.perf_counter() - start
if code.returncode:
    sys.exit(code.stderr.decode()[-500:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def watch(folder, *words):
    """Run a command in a folder: wall time and time of all cores (s), peak memory (MB)."""
    words = [sys.executable, "-c", WATCH, *map(str, words)]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, check=True)
    return tuple(map(float, done.stdout.split()))
