#!/usr/bin/env python3
"""Write the results of a sync and a watch run into docs/benchmarks.md.

  report.py SYNC.json WATCH.json [--document docs/benchmarks.md] [--command TEXT] [--version TEXT]

Only what lies between the two marks of the document is written anew: the aims with
figures and verdicts, the machine, and all tables. The reasons below are for people to
write.
"""
import argparse
import json
import sys

import measure
import sync_cases
import watch_case

BEGIN = "<!-- results: written by `scripts/bench all` -->"
END = "<!-- end of results -->"
OURS = "ovs-cuisine"
MASTER = "rsync, ControlMaster"
# Peer and our aim in milliseconds, by RTT in milliseconds, when the aims were set: the ratio is the aim.
DEV_LOOP = {0: (23, 8), 10: (76, 20)}


class Aim:
    """A row: what is measured, the aim in words, the figure, and whether it is met."""

    def __init__(self, work, aim, figure, met):
        self.work, self.aim, self.figure, self.met = work, aim, figure, met

    def row(self):
        return [self.work, self.aim, self.figure, "met" if self.met else "**missed**"]


def find(results, case, hosts):
    """The results of a case with so many hosts, by RTT."""
    found = [r for r in results if r["case"] == case and r["hosts"] == hosts]
    return sorted(found, key=lambda r: r["rtt_ms"])


def timed(result, work, peers, most):
    """An aim of time: at most so many times what the fastest of the peers took."""
    samples = result["samples"]
    ratios = {peer: measure.ratio_to(samples[peer], samples[OURS]) for peer in peers}
    peer = max(peers, key=ratios.get)
    seconds = [measure.median_of(samples[tool], "wall_s") for tool in (OURS, peer)]
    return Aim(f"{work}, RTT {result['rtt_ms']:g} ms", f"{most:.2f} of {peer}'s time",
               f"{ratios[peer]:.2f} ({seconds[0]:.2f} s against {seconds[1]:.2f} s)", ratios[peer] <= most)


def sent(result, work, most, limit):
    """An aim of bytes on the wire."""
    size = measure.median_of(result["samples"][OURS], "up")
    return Aim(f"{work}, RTT {result['rtt_ms']:g} ms", limit, measure.size(size), size <= most)


def sync_aims(results):
    for result in find(results, "large: no-op", 1):
        yield timed(result, "no change in 10,000 files", ["rsync -a"], 1 / 3)
    for result in find(results, "binary: next build", 1):
        yield timed(result, "next build of a 150 MB binary", ["rsync -az"], 0.5)
        theirs = measure.median_of(result["samples"]["rsync -az"], "up")
        yield sent(result, "the same, bytes sent", theirs, f"rsync -az's {measure.size(theirs)}")
    for result in find(results, "large: rename of a top directory", 1):
        yield timed(result, "rename of a top directory", ["rsync -az"], 0.4)
        yield sent(result, "the same, bytes sent", 300_000, "0.3 MB")
    for result in find(results, "large: cold push", 8):
        yield timed(result, "200 MB in 10,000 files to 8 empty hosts", ["rsync -a", "rsync -az"], 0.5)


def watch_aims(results):
    for result in results:
        if result["rtt_ms"] not in DEV_LOOP:
            continue
        then, wanted = DEV_LOOP[result["rtt_ms"]]
        ours, theirs = (measure.percentile([s[0] * 1000 for s in result["samples"][tool]], 50)
                        for tool in (OURS, MASTER))
        ratio = wanted / then
        yield Aim(f"one file saved until it is visible, RTT {result['rtt_ms']:g} ms",
                  f"{ratio:.2f} of rsync's time over a ControlMaster ({wanted} ms where that takes {then} ms)",
                  f"{ours / theirs:.2f} ({ours:.0f} ms against {theirs:.0f} ms)", ours / theirs <= ratio)


def written(sync, watch, command, version):
    """The part of the document that is written here."""
    aims = [*sync_aims(sync["cases"]), *watch_aims(watch["cases"])]
    machine = sync["machine"]
    rounds = min(len(samples) for r in sync["cases"] for samples in r["samples"].values())
    return "\n".join([
        BEGIN, "",
        f"Measured on {machine['date']} with ovs-cuisine {version}, {machine['rsync']}, {machine['ssh']}; "
        f"{machine['cpu']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}; by `{command}`. "
        f"Medians of {rounds} rounds; {len(watch['cases'][0]['samples'][OURS])} saved files.", "",
        "## Aims", "",
        measure.table(["work", "aim", "figure", "verdict"], [aim.row() for aim in aims]),
        "## Pushing trees", "", sync_cases.report(sync["cases"]),
        "## From saving a file to seeing it on the host", "", watch_case.report(watch["cases"]), END])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sync", metavar="SYNC.json")
    parser.add_argument("watch", metavar="WATCH.json")
    parser.add_argument("--document", default="docs/benchmarks.md")
    parser.add_argument("--command", default="scripts/bench all")
    parser.add_argument("--version", default="?")
    args = parser.parse_args()
    with open(args.sync) as sync, open(args.watch) as watch:
        text = written(json.load(sync), json.load(watch), args.command, args.version)
    with open(args.document) as f:
        document = f.read()
    before, _, rest = document.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{args.document} has not both marks:\n{BEGIN}\n{END}")
    with open(args.document, "w") as f:
        f.write(before + text + after)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
