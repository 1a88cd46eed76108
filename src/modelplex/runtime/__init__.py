"""The asyncio shells round `core` and `wire`: they perform what the core decides, and decide nothing themselves."""
