"""Picking while micrographs still arrive: turn by turn, each of which leaves all lists whole."""

from __future__ import annotations

import os
import time

from . import ApbcError, SomeSkipped, cli, external, mrc, network, picking, relion


def watch(project, classbin, star, model_file, record, options, clear):
    """Pick as `picking.pick` does what is new in a list, again and again.

    It ends once ``options['until']`` micrographs are picked or found unusable, or with Ctrl-C
    between two turns. A micrograph that is not there yet, or is still being written, is left for
    the next turn, and so is a list that can't be read.

    Parameters, result and errors are those of `picking.pick`; ``options['watch']`` are the seconds
    between two turns.
    """
    network.check_model(model_file, record)
    growing, bad, nodes, said = {}, set(), [], ""
    while True:
        names = _listed(star)
        files = {name: classbin.picks_file(relion.rest(name)) for name in names}
        # In the first turn also what there is: picking holds it against the earlier run.
        todo = [n for n in names if n not in bad and not (nodes and files[n].exists())]
        whole, growing = _arrived(project, todo, growing)
        if whole:
            now = {**options, "left": bad.union(todo).difference(whole)}
            nodes = _turn(project, classbin, star, model_file, record, now, clear)
            clear = False
            bad |= {name for name in whole if not files[name].exists()}
        done = sum(name in bad or files[name].exists() for name in names)
        if nodes and done >= (options["until"] or float("inf")):
            break
        line = f"{len(names) - done} of {len(names)} micrographs are still to come"
        if names and line != said:
            cli.status(said := line)
        try:
            time.sleep(options["watch"])
        except external.Stopped:
            raise
        except KeyboardInterrupt:
            break
    if bad:
        text = f"{star}: {len(bad)} micrographs were skipped: {relion.first(sorted(bad))}"
        raise SomeSkipped(text, nodes)
    return nodes


def _listed(star):
    """Return the names in a list; none while it is being written."""
    try:
        return relion.read_micrographs(star).names
    except (ApbcError, OSError) as err:
        cli.warn(f"{cli.explain(err, star)}; it is read again in the next turn")
        return []


def _arrived(project, names, before):
    """Return the micrographs to pick now, and the sizes of those that are still being written.

    A file that is shorter than its header says grows, or has been cut short: then it is the same
    as ``before``, and picking says what is wrong with it.
    """
    whole, growing = [], {}
    for name in names:
        try:
            mrc.size(project / name)
        except FileNotFoundError:
            continue
        except (ApbcError, OSError):
            found = os.stat(project / name)
            growing[name] = found.st_size, found.st_mtime_ns
            if before.get(name) != growing[name]:
                continue
            del growing[name]
        whole.append(name)
    return whole, growing


def _turn(*how):
    """Pick once; what was skipped is said at the end of all turns."""
    try:
        return picking.pick(*how)
    except SomeSkipped as err:
        return err.made
