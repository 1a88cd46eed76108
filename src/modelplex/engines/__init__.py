"""Ways to start processes, one per file; `config.ENGINES` names them."""
