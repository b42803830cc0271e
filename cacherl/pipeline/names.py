"""What the things of a run are called in the services. One prefix per run, so that runs never meet."""

from cacherl.wire import Wire

ROWS = ("base", "sft", "sft_continued", "sft_accepted", "grpo", "recipe")
"""The policies of a run, in the order in which the report shows them."""


class Names(Wire):
    """Names under one prefix."""

    prefix: str

    def policy(self, row: str) -> str:
        """The policy of a report row."""
        return f"{self.prefix}-{row.replace('_', '-')}"

    def dataset(self, what: str) -> str:
        """`logs`, `thoughtful`, `accepted`, `tasks`, `validation`."""
        return f"{self.prefix}-{what}"

    def cache(self, what: str) -> str:
        """`train`, `validation`, `live`."""
        return f"{self.prefix}-{what}"
