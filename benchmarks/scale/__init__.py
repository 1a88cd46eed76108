"""What it costs to have many replicas and many proxies: links, messages, memory, and the table of all of them."""
