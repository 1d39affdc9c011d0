"""The database beneath the stores: connections, transactions, write queue, change feed, pages, schema."""
