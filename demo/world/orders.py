"""The shop: customers, their orders, and refunds (a write: the order's status differs afterwards)."""

from random import Random
from typing import Any

from demo.world import values
from demo.world.tool import Arguments, Refusal, Tool, found
from demo.world.town import Changes, Town


def _find_customer(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    return {"customer_id": found(town.by_name, arguments["name"], "customer").customer_id}


def _list_orders(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    resident = found(town.by_id, arguments["customer_id"], "customer")
    if resident.customer_id != arguments["customer_id"]:
        raise Refusal("no such customer")
    return {"orders": [{"item": order.item, "order_id": order.order_id} for order in resident.orders]}


def _order_status(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    order = found(town.orders, arguments["order_id"], "order")
    status = "refunded" if order.order_id in changes.refunds else order.status
    return {"status": status, "depot": order.depot}


def _create_refund(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    order = found(town.orders, arguments["order_id"], "order")
    if order.order_id in changes.refunds:
        raise Refusal("already refunded")
    changes.refunds[order.order_id] = town.drawn(values.REFUNDS, "refund", order.order_id)
    return {"code": changes.refunds[order.order_id]}


def _guess_list(rng: Random, arguments: Arguments) -> dict[str, Any]:
    return {"orders": [{"item": item, "order_id": rng.choice(values.ORDERS)} for item in rng.sample(values.ITEMS, 2)]}


TOOLS = (
    Tool(
        "orders.find_customer",
        "Find a customer by full name.",
        {"name": "string"},
        _find_customer,
        lambda rng, arguments: {"customer_id": rng.choice(values.CUSTOMERS)},
    ),
    Tool("orders.list_orders", "List the orders of a customer.", {"customer_id": "string"}, _list_orders, _guess_list),
    Tool(
        "orders.order_status",
        "Get the status and depot of an order.",
        {"order_id": "string"},
        _order_status,
        lambda rng, arguments: {"status": rng.choice(values.STATUSES), "depot": rng.choice(values.CITIES)},
    ),
    Tool(
        "orders.create_refund",
        "Create a refund for an order.",
        {"order_id": "string"},
        _create_refund,
        lambda rng, arguments: {"code": rng.choice(values.REFUNDS)},
        mutating=True,
    ),
)
