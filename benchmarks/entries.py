"""Everything that competes, by name: the package's strategies and its peers."""

from benchmarks import peers, strategies
from benchmarks.contract import Entry

ENTRIES: dict[str, Entry] = {**strategies.ENTRIES, **peers.ENTRIES}
