"""The resources that a configuration asks for, and what a machine or a cluster lacks of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

THIS_MACHINE, THE_CLUSTER = "this machine", "the cluster"


@dataclass(frozen=True)
class Demand:
    """Processes that run at the same time, and the resources of each."""

    each: Mapping[str, float]
    """Amounts by name of the resource, as Ray names it: CPU, GPU, memory in bytes, or a custom resource."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the configuration that ask for the resources, by name of the resource."""
    number: int = 1
    """Number of processes."""
    number_field: str = ""
    """Field of the configuration that asks for that number."""

    def fits(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many of the processes fit on nodes. A process cannot be split between nodes."""
        return sum(
            min((math.floor(node.get(name, 0) / amount) for name, amount in self._needed.items()), default=self.number)
            for node in nodes
        )

    def lack(self, nodes: Sequence[Mapping[str, float]], where: str = THIS_MACHINE) -> str | None:
        """Return what the nodes lack for the processes, with the field that requests it; None if they lack nothing.

        Args:
            nodes: resources of each node, by name.
            where: what the nodes are, for the message.
        """
        for name, amount in self._needed.items():
            most = max((node.get(name, 0) for node in nodes), default=0)
            if amount > most:
                has = "has none" if most == 0 else f"has {_amount(name, most)}"
                owner = where if where == THIS_MACHINE else f"no node of {where} has that: the largest"
                return f"{self._field(name)} {_amount(name, amount)}: {owner} {has}"
        fits = self.fits(nodes)
        if fits >= self.number:
            return None
        each = " and ".join(_amount(name, amount) for name, amount in self._needed.items())
        return f"{self.number_field or self._field('CPU')} {self.number}: {where} has room for {fits}, at {each} each"

    @property
    def _needed(self) -> dict[str, float]:
        return {name: amount for name, amount in self.each.items() if amount > 0}

    def _field(self, name: str) -> str:
        return self.fields.get(name, f"resource {name}")


def _amount(name: str, amount: float) -> str:
    return f"{amount / 1e9:,.1f} GB of memory" if name == "memory" else f"{amount:g} {name}"
