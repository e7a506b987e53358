"""Whether this machine or the cluster has the resources that a configuration asks for."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stratoscope.errors import InputError

CPUS = "STRATOSCOPE_CPUS"
"""Environment variable with the number of CPUs that a local Ray uses."""
MAX_CPUS = 10_000
THIS_MACHINE = "this machine"


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
        """Return how many of the processes fit on nodes, each of which runs whole processes."""
        return sum(
            min((math.floor(node.get(name, 0) / amount) for name, amount in self._needed.items()), default=self.number)
            for node in nodes
        )

    def lack(self, nodes: Sequence[Mapping[str, float]], where: str = THIS_MACHINE) -> str | None:
        """Return what nodes lack for the processes, with the field that asks for it; None if they lack nothing.

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


def local_cpus() -> int | None:
    """Return the number of CPUs in STRATOSCOPE_CPUS, or None if it is not set.

    Raises:
        InputError: it is not a number of CPUs.
    """
    text = os.environ.get(CPUS)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_CPUS:
        raise InputError(f"{CPUS} {text!r} must be a number of CPUs from 1 to {MAX_CPUS:,}; change or unset it")
    return int(text)


def machine_resources() -> dict[str, float]:
    """Return the resources that a local Ray would find on this machine, by name."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    spec = ResourceAndLabelSpec(num_cpus=local_cpus()).resolve(is_head=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {**spec.to_resource_dict(), "memory": memory}


def check_machine(demands: Sequence[Demand]) -> None:
    """Check that this machine has what processes need.

    Raises:
        InputError: it has not; no other machine would take part, so that the processes would wait for ever.
    """
    machine = machine_resources()
    for demand in demands:
        if lack := demand.lack([machine]):
            raise InputError(f"{lack}; ask for less, or set RAY_ADDRESS to a cluster that has more")
