"""The tool that every agent here has."""

ORDERS = {"A17": "left the warehouse on Monday", "B42": "is waiting for payment"}


def look_up(order: str) -> str:
    """Say where an order is.

    Args:
        order: its number, such as A17.
    """
    return ORDERS.get(order, "is not known")
