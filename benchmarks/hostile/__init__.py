"""What hostile clients cost the others: warm traffic beside each attack, and alone, in one run."""
