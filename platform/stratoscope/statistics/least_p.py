"""The smallest p-values that tests can reach with a given number of units, sets or draws."""

from math import comb


def least_rank_p(num_sets: int) -> float:
    """Return the least p-value of a rank among random sets: 1 / (1 + sets)."""
    return 1 / (1 + num_sets)


def least_sign_p(num_units: int) -> float:
    """Return the least two-sided p-value of paired differences, whose signs are exchangeable: 2 / 2^units."""
    return min(1.0, 2.0 ** (1 - num_units))


def least_group_p(first: int, second: int) -> float:
    """Return the least two-sided p-value of two exchangeable groups.

    Args:
        first: units of the one group.
        second: units of the other; groups of equal size can be swapped as a whole without changing the statistic.
    """
    return min(1.0, (2 if first == second else 1) / comb(first + second, first))


def least_bootstrap_p(num_draws: int) -> float:
    """Return the least two-sided p-value of bootstrap draws (see `bootstrap_p_value`)."""
    return min(1.0, 2 / (num_draws + 1))


def not_shown(source: str, least_p: float) -> str:
    """Return in words that no difference can be significant.

    Args:
        source: what there is too little of, such as '2 random sets'.
        least_p: the least possible p-value.
    """
    return f"no difference could be shown with {source} (the least possible p is {least_p:.2g})"
