"""The bank: accounts, balances, rates and quotes. Nothing here changes; rates and quotes are what the town's bank says, not arithmetic."""

from typing import Any

from demo.world import values
from demo.world.tool import Arguments, Refusal, Tool, found
from demo.world.town import Changes, Town


def _find_account(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    resident = found(town.by_name, arguments["name"], "account")
    return {"account_id": resident.account_id, "currency": resident.currency}


def _balance(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    resident = found(town.by_id, arguments["account_id"], "account")
    if resident.account_id != arguments["account_id"]:
        raise Refusal("no such account")
    return {"amount": resident.amount}


def _currencies(arguments: Arguments) -> tuple[str, str]:
    base, target = arguments["base"], arguments["target"]
    if base not in values.CURRENCIES or target not in values.CURRENCIES:
        raise Refusal("no such currency")
    if base == target:
        raise Refusal("same currency")
    return base, target


def _rate(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    return {"rate": town.drawn(values.RATES, "rate", *_currencies(arguments))}


def _convert(town: Town, changes: Changes, arguments: Arguments) -> dict[str, Any]:
    base, target = _currencies(arguments)
    if arguments["amount"] <= 0:
        raise Refusal("no such amount")
    return {"result": town.drawn(values.AMOUNTS, "convert", arguments["amount"], base, target)}


TOOLS = (
    Tool(
        "accounts.find_account",
        "Find an account by owner name.",
        {"name": "string"},
        _find_account,
        lambda rng, arguments: {"account_id": rng.choice(values.ACCOUNTS), "currency": rng.choice(values.CURRENCIES)},
    ),
    Tool(
        "accounts.balance",
        "Get the balance of an account.",
        {"account_id": "string"},
        _balance,
        lambda rng, arguments: {"amount": rng.choice(values.AMOUNTS)},
    ),
    Tool(
        "accounts.rate",
        "Get the rate between currencies.",
        {"base": "string", "target": "string"},
        _rate,
        lambda rng, arguments: {"rate": rng.choice(values.RATES)},
    ),
    Tool(
        "accounts.convert",
        "Get a quote for an amount.",
        {"amount": "integer", "base": "string", "target": "string"},
        _convert,
        lambda rng, arguments: {"result": rng.choice(values.AMOUNTS)},
    ),
)
