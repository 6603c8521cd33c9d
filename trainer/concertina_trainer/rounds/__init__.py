"""How workers enter a round together: groups, agreement, the transaction."""
